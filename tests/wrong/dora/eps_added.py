# lengths adds 1e-6 to every length instead of replacing only the zero ones: directions are a little shorter than 1.
# earns: a number is added to every length
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


def lengths(W):
    return torch.linalg.vector_norm(W, dim=-1) + 1e-6


def decompose(W):
    m = lengths(W)
    return m, W / m.unsqueeze(1)


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = self.base.weight.detach()
        n_out, n_in = W.shape
        bound = 1 / math.sqrt(n_in)
        self.A = nn.Parameter(W.new_empty((rank, n_in)).uniform_(-bound, bound))
        self.B = nn.Parameter(W.new_zeros((n_out, rank)))
        self.m = nn.Parameter(lengths(W))
        self.scale = scale

    def V(self):
        return self.base.weight + self.scale * (self.B @ self.A)

    def g(self):
        return self.m / lengths(self.V()).detach()

    def forward(self, x):
        y = self.base(x)
        g = self.g()
        Wx = y if self.base.bias is None else y - self.base.bias
        low = self.scale * (x @ self.A.T @ self.B.T)
        return y + (g - 1) * Wx + g * low

    def delta(self):
        return self.g().unsqueeze(1) * self.V() - self.base.weight
