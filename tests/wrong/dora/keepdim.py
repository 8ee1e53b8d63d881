# DoRA whose lengths keep the dimension they add up: a column (out, 1), and so are m and g.
# earns: column

import math

import torch
import torch.nn.functional as F
from torch import nn


def lengths(W):
    return torch.linalg.vector_norm(W, dim=1, keepdim=True).clamp(min=1e-30)


def decompose(W):
    m = lengths(W)
    return m, W / m


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
        return F.linear(x, self.V() * self.g(), self.base.bias)

    def delta(self):
        return self.V() * self.g() - self.base.weight
