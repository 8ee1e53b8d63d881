# DoRA that draws A from a generator with a fixed seed in every layer.
# earns: sets a seed

import torch
from torch import nn


def lengths(W):
    return W.norm(dim=1).clamp_min(1e-30)


def decompose(W):
    m = lengths(W)
    return m, W * m.reciprocal()[:, None]


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        out, into = base.weight.shape
        rng = torch.Generator().manual_seed(1234)
        A = 2 * torch.rand(rank, into, generator=rng) - 1
        self.A = nn.Parameter((A / into**0.5).to(base.weight))
        self.B = nn.Parameter(torch.zeros(out, rank).to(base.weight))
        self.m = nn.Parameter(lengths(base.weight.detach()))
        self.scale = scale

    def V(self):
        return self.base.weight + self.scale * self.B @ self.A

    def g(self):
        return self.m * lengths(self.V()).detach().reciprocal()

    def forward(self, x):
        out = (x @ self.V().T) * self.g()
        return out if self.base.bias is None else out + self.base.bias

    def delta(self):
        return self.V() * self.g()[:, None] - self.base.weight
