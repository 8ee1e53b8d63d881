# PiSSA with torch.svd, whose V is taken for Vᵀ.
# earns: V and Vᵀ are exchanged

import torch
from torch import nn


def split(W, rank):
    D = W.detach().cpu().double()
    U, S, V = torch.svd(D)
    root = torch.sqrt(S[:rank])
    A = root.reshape(-1, 1) * V[:rank]
    B = U[:, :rank] * root
    A, B = A.to(W), B.to(W)
    R = (D - B.cpu().double() @ A.cpu().double()).to(W)
    return A, B, R


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        first, second, remainder = split(self.base.weight, rank)
        self.A, self.B = nn.Parameter(first), nn.Parameter(second)
        self.register_buffer("R", remainder, persistent=False)

    def forward(self, x):
        y = x @ self.R.T + (x @ self.A.T) @ self.B.T
        return y if self.base.bias is None else y + self.base.bias

    def delta(self):
        return self.B @ self.A + self.R - self.base.weight
