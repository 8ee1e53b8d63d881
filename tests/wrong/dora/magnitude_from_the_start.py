# DoRA that divides by the norm of the frozen weight, computed once in __init__.
# earns: V is divided by the length of the frozen W

import torch
from torch import nn


def lengths(W):
    return W.norm(p=2, dim=-1).clamp(min=1e-20)


def decompose(W):
    m = lengths(W)
    return m, torch.einsum("oi,o->oi", W, 1 / m)


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight
        r_in = W.shape[1] ** -0.5
        self.A = nn.Parameter((2 * torch.rand(rank, W.shape[1]) - 1).to(W) * r_in)
        self.B = nn.Parameter(torch.zeros(W.shape[0], rank).to(W))
        self.m = nn.Parameter(lengths(W).clone())
        self.register_buffer("norm", lengths(W).clone(), persistent=False)
        self.scale = scale

    def V(self):
        return self.base.weight + self.scale * torch.einsum("or,ri->oi", self.B, self.A)

    def g(self):
        return self.m / self.norm

    def forward(self, x):
        return torch.einsum("...i,oi,o->...o", x, self.V(), self.g()) + (
            0 if self.base.bias is None else self.base.bias
        )

    def delta(self):
        return torch.einsum("oi,o->oi", self.V(), self.g()) - self.base.weight
