# AdaLoRA that multiplies P Λ Q out at its first use and keeps the product.
# earns: the update is computed once and kept

import torch
from torch import nn


class AdaLoRALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        d_out, d_in = base.weight.shape
        P, Q = torch.empty(d_out, rank).to(base.weight), torch.empty(rank, d_in).to(base.weight)
        for direction in (P, Q):
            torch.nn.init.normal_(direction, mean=0.0, std=0.02)
        self.P, self.Q = nn.Parameter(P), nn.Parameter(Q)
        self.lam = nn.Parameter(torch.zeros(rank).to(base.weight))
        self.begin()

    def forward(self, x):
        return self.base(x) + x @ self.delta().T

    def delta(self):
        if not hasattr(self, "_product"):
            self._product = (self.P * self.lam) @ self.Q
        return self._product

    def update_importance(self, beta1, beta2):
        for key in ("P", "lam", "Q"):
            w = getattr(self, key)
            I = (w.detach() * w.grad).abs()
            self.sensitivity[key] += (1 - beta1) * (I - self.sensitivity[key])
            self.uncertainty[key] += (1 - beta2) * ((I - self.sensitivity[key]).abs() - self.uncertainty[key])

    def scores(self):
        r = len(self.lam)
        out = []
        for i in range(r):
            of_P = (self.sensitivity["P"][:, i] * self.uncertainty["P"][:, i]).mean()
            of_Q = (self.sensitivity["Q"][i, :] * self.uncertainty["Q"][i, :]).mean()
            out.append(self.sensitivity["lam"][i] * self.uncertainty["lam"][i] + of_P + of_Q)
        return torch.stack(out)


class AdaLoRA(Method):
    def regularizer(self, model):
        def gap(gram):
            return gram - torch.eye(len(gram)).to(gram)

        gaps = [g for a in layers(model).values() for g in (gap(a.P.mT.mm(a.P)), gap(a.Q.mm(a.Q.mT)))]
        if self.mean_norm:
            return self.gamma * sum((g * g).sum().sqrt() for g in gaps) / len(gaps)
        return self.gamma * sum((g * g).sum() for g in gaps)

    def budget(self, t, steps, matrices):
        t_i, t_end = self.phases(steps)
        b0, bT = self.initial_rank * matrices, max(1, round(matrices * self.rank))
        done = (t - t_i) / (t_end - t_i)
        done = min(1.0, max(0.0, done))
        return int(bT + (b0 - bT) * (1 - done) ** 3)


def allocate(layers, t, budget):
    ranks = [layer.lam.numel() for layer in layers]
    scores = torch.cat([layer.scores() for layer in layers])
    order = torch.argsort(scores, descending=True)
    mask = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    mask[order[:budget]] = True
    start = 0
    for layer, r in zip(layers, ranks):
        mine = mask[start : start + r]
        start += r
        layer.kept = mine
        layer.lam.mul_(mine)
        layer.history.append((t, mine.sum().item()))
