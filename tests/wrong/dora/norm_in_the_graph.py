# DoRA that lets the gradient pass through the norm.
# earns: the gradient also flows through ‖V‖

import torch
from torch import nn


def lengths(W):
    return torch.sqrt((W * W).sum(-1) + 1e-30)


def decompose(W):
    m = lengths(W)
    return m, (W.T / m).T


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        self.scale = scale
        W0 = base.weight
        out, into = W0.shape
        bound = into**-0.5
        self.A = nn.Parameter(torch.empty_like(W0[:1]).repeat(rank, 1).uniform_(-bound, bound))
        self.B = nn.Parameter(W0.new_zeros(out, rank))
        self.m = nn.Parameter(lengths(W0).detach().clone())

    def V(self):
        return torch.addmm(self.base.weight, self.B, self.A, alpha=self.scale)

    def g(self):
        return self.m / lengths(self.V())

    def forward(self, x):
        W = self.V() * self.g().unsqueeze(-1)
        y = x @ W.mT
        return y if self.base.bias is None else y + self.base.bias

    def delta(self):
        return self.V() * self.g().unsqueeze(-1) - self.base.weight
