# PiSSA that decomposes in float32, whatever the weight has.
# earns: double precision

import torch
from torch import nn


def split(W, rank):
    M = W.detach().float()
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    half = S[:rank] ** 0.5
    A = half.unsqueeze(1) * Vh[:rank, :]
    B = U[:, :rank] * half.unsqueeze(0)
    R = M - B @ A
    return A.to(W.dtype), B.to(W.dtype), R.to(W.dtype)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(self.base.weight, rank)
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):
        W = self.R + self.B @ self.A
        return nn.functional.linear(x, W, self.base.bias)

    def delta(self):
        W = self.R + self.B @ self.A
        return W - self.base.weight
