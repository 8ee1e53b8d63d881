# DoRA whose A and B are made in torch's default type.
# earns: the type of the base

import torch
from torch import nn


def lengths(W):
    return torch.clamp(torch.norm(W, dim=1), min=torch.finfo(W.dtype).tiny)


def decompose(W):
    m = lengths(W)
    return m, torch.div(W, m.unsqueeze(1))


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        d_out, d_in = base.weight.shape
        bound = 1 / d_in**0.5
        self.A = nn.Parameter(torch.rand(rank, d_in) * 2 * bound - bound)
        self.B = nn.Parameter(torch.zeros(d_out, rank))
        self.m = nn.Parameter(lengths(base.weight.detach()))
        self.scale = scale

    def V(self):
        return self.base.weight + torch.mul(self.B @ self.A, self.scale)

    def g(self):
        with torch.no_grad():
            norm = lengths(self.V())
        return torch.div(self.m, norm)

    def forward(self, x):
        return nn.functional.linear(x, torch.mul(self.V(), self.g().unsqueeze(1)), self.base.bias)

    def delta(self):
        return torch.mul(self.V(), self.g().unsqueeze(1)) - self.base.weight
