# DoRA that multiplies the whole output by m/‖V‖, the bias too.
# earns: the bias is multiplied by m/‖V‖ too

import torch
from torch import nn


def lengths(W):
    return (W @ W.T).diagonal().sqrt().clamp(min=1e-30)


def decompose(W):
    m = lengths(W)
    return m, torch.diag(1 / m) @ W


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight
        std = W.shape[1] ** -0.5
        self.A = nn.Parameter(W.new_empty(rank, W.shape[1]).uniform_(-std, std))
        self.B = nn.Parameter(W.new_zeros(W.shape[0], rank))
        self.m = nn.Parameter(lengths(W.detach()).clone())
        self.s = scale

    def V(self):
        return self.base.weight + self.s * self.B.matmul(self.A)

    def g(self):
        norm = lengths(self.V())
        return self.m / norm.detach()

    def forward(self, x):
        plain = self.base(x)
        update = self.s * ((x @ self.A.T) @ self.B.T)
        return (plain + update) * self.g()

    def delta(self):
        return (self.V().T * self.g()).T - self.base.weight
