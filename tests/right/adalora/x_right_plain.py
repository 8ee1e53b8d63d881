# right (the text from which the wrong ones were made)
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, WeightWrapper


class AdaLoRALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        n_out, n_in = base.weight.shape
        P, Q = base.weight.new_empty(n_out, rank), base.weight.new_empty(rank, n_in)
        nn.init.normal_(P, 0.0, 0.02)
        nn.init.normal_(Q, 0.0, 0.02)
        self.P, self.Q = nn.Parameter(P), nn.Parameter(Q)
        self.lam = nn.Parameter(base.weight.new_zeros(rank))
        self.begin()

    def forward(self, x):
        inner = (x @ self.Q.T) * self.lam
        return self.base(x) + inner @ self.P.T

    def delta(self):
        return self.P @ torch.diag(self.lam) @ self.Q

    def update_importance(self, beta1, beta2):
        for name in ("P", "lam", "Q"):
            w = getattr(self, name)
            importance = torch.abs(w * w.grad)
            smooth = beta1 * self.sensitivity[name] + (1 - beta1) * importance
            spread = torch.abs(importance - smooth)
            self.uncertainty[name] = beta2 * self.uncertainty[name] + (1 - beta2) * spread
            self.sensitivity[name] = smooth

    def scores(self):
        I, U = self.sensitivity, self.uncertainty
        return I["lam"] * U["lam"] + (I["P"] * U["P"]).mean(dim=0) + (I["Q"] * U["Q"]).mean(dim=1)


class AdaLoRA(Method):
    def regularizer(self, model):
        gaps = []
        for layer in layers(model).values():
            for gram in (layer.P.T @ layer.P, layer.Q @ layer.Q.T):
                gaps.append(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        if self.mean_norm:
            return self.gamma * sum(torch.linalg.norm(g) for g in gaps) / len(gaps)
        return self.gamma * sum((g**2).sum() for g in gaps)

    def budget(self, t, steps, matrices):
        start = self.initial_rank * matrices
        end = max(1, round(self.rank * matrices))
        first, last = self.phases(steps)
        if t <= first:
            return start
        if t >= last:
            return end
        progress = (t - first) / (last - first)
        return int(end + (start - end) * (1 - progress) ** 3)


def allocate(layers, t, budget):
    every = torch.cat([layer.scores() for layer in layers])
    winners = torch.topk(every, budget).indices
    mask = torch.zeros(len(every), dtype=torch.bool, device=every.device)
    mask[winners] = True
    position = 0
    for layer in layers:
        r = len(layer.lam)
        mine = mask[position : position + r]
        position += r
        layer.kept = mine
        layer.lam.data[~mine] = 0.0
        layer.history.append((t, int(mine.sum())))
