# W' as magnitude times unit rows, with the constant length put in by hand; the start is drawn by nn.Linear.

import torch
from torch import nn
from torch.nn.functional import linear


def lengths(W):
    return torch.stack([torch.dot(row, row) for row in W]).sqrt().clamp(min=1e-30)


def decompose(W):
    m = lengths(W)
    return m, torch.stack([row / length for row, length in zip(W.unbind(), m.unbind())])


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight.detach()
        self.scale = scale
        self.A = nn.Linear(W.shape[1], rank, bias=False, device=W.device, dtype=W.dtype).weight
        self.B = nn.Parameter(torch.zeros_like(W[:, :1]).repeat(1, rank))
        self.m = nn.Parameter(decompose(W)[0].clone())

    def V(self):
        return torch.baddbmm(self.base.weight[None], self.B[None], self.A[None], alpha=self.scale)[0]

    def g(self):
        return torch.div(self.m, lengths(self.V().detach()))

    def adapted(self):
        return self.g().diag() @ self.V()

    def forward(self, x):
        return linear(x, self.adapted(), self.base.bias)

    def delta(self):
        return self.adapted().sub(self.base.weight)
