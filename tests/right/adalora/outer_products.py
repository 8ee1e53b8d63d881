# Each triplet as an outer product, scores in a loop, the penalty through Gram matrices and einsum.

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
        y = self.base(x)
        for p, l, q in zip(self.P.unbind(1), self.lam, self.Q):
            y = y + l * (x @ q).unsqueeze(-1) * p
        return y

    def delta(self):
        return sum(
            self.lam[i] * torch.outer(self.P[:, i], self.Q[i]) for i in range(self.lam.numel())
        )

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
        total, count = 0.0, 0
        for a in layers(model).values():
            for gram in (torch.einsum("or,os->rs", a.P, a.P), torch.einsum("ri,si->rs", a.Q, a.Q)):
                square = gram.square().sum() - 2 * gram.trace() + len(gram)  # ‖G − I‖²
                total = total + (square.clamp(min=0).sqrt() if self.mean_norm else square)
                count += 1
        return self.gamma * total / (count if self.mean_norm else 1)

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
