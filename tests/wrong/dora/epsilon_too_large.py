# DoRA that adds 1e-2 to every length against a division by zero: a weight is no longer what it was.
# earns: The lengths of the rows of a weight are not the expected ones

import torch
from torch import nn


def lengths(W):
    return torch.sqrt(torch.sum(W**2, dim=1)) + 1e-2


def decompose(W):
    return lengths(W), W / lengths(W)[:, None]


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight
        self.A = nn.Parameter(W.new_empty(rank, W.shape[1]).uniform_(-(W.shape[1] ** -0.5), W.shape[1] ** -0.5))
        self.B = nn.Parameter(W.new_zeros(W.shape[0], rank))
        self.m = nn.Parameter(lengths(W.detach()))
        self.scale = scale

    def V(self):
        return self.base.weight + self.scale * self.B @ self.A

    def g(self):
        return self.m / lengths(self.V()).detach()

    def forward(self, x):
        return torch.nn.functional.linear(x, self.g()[:, None] * self.V(), self.base.bias)

    def delta(self):
        return self.g()[:, None] * self.V() - self.base.weight
