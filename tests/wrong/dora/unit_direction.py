# The low-rank update is added to the direction W/|W| of unit length, not to W itself: V = W/|W| + s BA; forward and delta go with it.
# earns: V is a direction of length one
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


def lengths(W):
    smallest = torch.finfo(W.dtype).tiny
    return torch.linalg.vector_norm(W, dim=-1).clamp_min(smallest)


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
        _, direction = decompose(self.base.weight)
        return direction + self.scale * (self.B @ self.A)

    def g(self):
        return self.m / lengths(self.V()).detach()

    def forward(self, x):
        return F.linear(x, self.g().unsqueeze(1) * self.V(), self.base.bias)

    def delta(self):
        return self.g().unsqueeze(1) * self.V() - self.base.weight
