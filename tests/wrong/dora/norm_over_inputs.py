# DoRA with the norm over dim=0, as the paper's word "column-wise" suggests; m is (1, in).
# earns: the lengths are those of the columns

import math

import torch
from torch import nn


def lengths(W):
    return torch.linalg.vector_norm(W, dim=0)


def decompose(W):
    m = lengths(W)
    return m, W / (m + 1e-12)


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight.detach()
        self.A = nn.Parameter(W.new_empty(rank, W.shape[1]).uniform_(-1, 1) / math.sqrt(W.shape[1]))
        self.B = nn.Parameter(W.new_zeros(W.shape[0], rank))
        self.m = nn.Parameter(lengths(W))
        self.scale = scale

    def V(self):
        return self.base.weight + self.scale * (self.B @ self.A)

    def g(self):
        return self.m / lengths(self.V().detach())

    def adapted(self):
        return self.V() * self.g()

    def forward(self, x):
        return torch.nn.functional.linear(x, self.adapted(), self.base.bias)

    def delta(self):
        return self.adapted() - self.base.weight
