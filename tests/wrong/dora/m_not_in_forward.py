# DoRA that forgets m in forward: the rows have length 1.
# earns: m is left out of the output

import math

import torch
import torch.nn.functional as F
from torch import nn


def lengths(W):
    return torch.linalg.vector_norm(W, dim=1).clamp(min=1e-30)


def decompose(W):
    m = lengths(W)
    return m, W / m[:, None]


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight.detach()
        k = W.shape[1] ** -0.5
        self.A = nn.Parameter(W.new_empty(rank, W.shape[1]).uniform_(-k, k))
        self.B = nn.Parameter(W.new_zeros(W.shape[0], rank))
        self.m = nn.Parameter(lengths(W))
        self.scale = scale

    def V(self):
        return self.base.weight + self.scale * (self.B @ self.A)

    def g(self):
        return self.m / lengths(self.V()).detach()

    def forward(self, x):
        return F.linear(x, F.normalize(self.V(), dim=1), self.base.bias)

    def delta(self):
        return self.V() * self.g()[:, None] - self.base.weight
