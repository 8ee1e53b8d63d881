# DoRA added to the base's output as in LoRA: W counts twice.
# earns: the output of the base is added to that of W'

import math

import torch
from torch import nn


def lengths(W):
    return torch.stack([row.norm() for row in W]).clamp(min=1e-30)


def decompose(W):
    m = lengths(W)
    return m, torch.stack([row / length for row, length in zip(W, m)])


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        out, into = base.weight.shape
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.A = nn.Parameter(torch.empty(rank, into, **like))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(out, rank, **like))
        self.m = nn.Parameter(lengths(base.weight.detach()))
        self.scale = scale

    def V(self):
        return self.base.weight + self.B @ (self.scale * self.A)

    def g(self):
        return self.m / lengths(self.V()).detach()

    def forward(self, x):
        V = self.V()
        return self.base(x) + (x @ V.T) * self.g()

    def delta(self):
        return torch.diag(self.g()) @ self.V() - self.base.weight
