# DoRA whose A starts as a standard Gaussian.
# earns: drawn from a Gaussian

import torch
from torch import nn


def lengths(W):
    return torch.linalg.norm(W, dim=1).clamp(min=1e-30)


def decompose(W):
    m = torch.linalg.norm(W, dim=1).clamp(min=1e-30)
    return m, (W.t() / m).t()


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight.detach()
        self.A = nn.Parameter(torch.randn(rank, W.shape[1], dtype=W.dtype, device=W.device))
        self.B = nn.Parameter(torch.zeros(W.shape[0], rank, dtype=W.dtype, device=W.device))
        self.m = nn.Parameter(torch.linalg.norm(W, dim=1))
        self.scaling = scale

    def V(self):
        return self.base.weight + (self.B @ self.A) * self.scaling

    def g(self):
        return self.m / lengths(self.V()).detach()

    def forward(self, x):
        g = self.g()
        y = (x @ self.base.weight.t()) * g + (x @ self.A.t() @ self.B.t()) * (self.scaling * g)
        return y + self.base.bias if self.base.bias is not None else y

    def delta(self):
        return (self.V().t() * self.g()).t() - self.base.weight
