# ‖V‖² from its three terms, so that V is never written down for it; the output's scale is applied to y − b.

import math

import torch
from torch import nn


def lengths(W):
    return torch.linalg.vector_norm(W, ord=2, dim=-1).clamp_min(torch.finfo(W.dtype).tiny)


def decompose(W):
    m = lengths(W)
    return m, W * (1 / m).unsqueeze(-1)


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight
        self.s = float(scale)
        self.A = nn.Parameter(torch.rand(rank, W.shape[-1]).to(W).mul_(2).sub_(1).div_(math.sqrt(W.shape[-1])))
        self.B = nn.Parameter(W.new_zeros(len(W), rank))
        self.m = nn.Parameter(lengths(W).detach())

    def V(self):
        return self.base.weight + (self.s * self.A.T @ self.B.T).T

    def g(self):
        W, A, B = self.base.weight.detach(), self.A.detach(), self.s * self.B.detach()
        squares = (W * W).sum(1) + 2 * ((W @ A.T) * B).sum(1) + ((B @ (A @ A.T)) * B).sum(1)
        return self.m / squares.clamp(min=torch.finfo(W.dtype).tiny).sqrt()

    def forward(self, x):
        g, y = self.g(), self.base(x)
        if self.base.bias is not None:
            y = y - self.base.bias
        y = (y + ((x @ self.A.T) @ self.B.T) * self.s) * g
        return y if self.base.bias is None else y + self.base.bias

    def delta(self):
        return self.base.weight * (self.g() - 1)[:, None] + (self.g() * self.s)[:, None] * (self.B @ self.A)
