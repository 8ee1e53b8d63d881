# DoRA that rescales W to the lengths m and then adds a plain LoRA to it.
# earns: only W is brought to its new length

import torch
from torch import nn
import torch.nn.functional as F


def lengths(W):
    return W.norm(dim=1).clamp(min=1e-30)


def decompose(W):
    return lengths(W), W / lengths(W).reshape(-1, 1)


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight
        self.A = nn.Parameter(W.new_empty((rank, W.shape[1])))
        self.B = nn.Parameter(W.new_zeros((W.shape[0], rank)))
        self.m = nn.Parameter(lengths(W.detach()))
        nn.init.uniform_(self.A, -(W.shape[1] ** -0.5), W.shape[1] ** -0.5)
        self.scale = scale

    def V(self):
        return self.base.weight + self.scale * self.B @ self.A

    def g(self):
        return self.m / lengths(self.V().detach())

    def forward(self, x):
        rescaled = self.g()[:, None] * self.base.weight
        y = F.linear(x, rescaled, self.base.bias)
        return y + self.scale * F.linear(F.linear(x, self.A), self.B)

    def delta(self):
        rescaled = self.g()[:, None] * self.base.weight
        return rescaled + self.scale * self.B @ self.A - self.base.weight
