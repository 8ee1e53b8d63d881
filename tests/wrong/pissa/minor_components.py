# PiSSA by the eigenvectors of WᵀW, which torch.linalg.eigh sorts upwards: the smallest are taken.
# earns: the smallest singular values

import torch
from torch import nn


def split(W, rank):
    M = W.detach().cpu().double()
    if M.shape[0] <= M.shape[1]:
        values, U = torch.linalg.eigh(M @ M.T)
        U = U[:, :rank]
        sigma = values[:rank].clamp(min=0).sqrt()
        Vt = (U.T @ M) / sigma[:, None]
    else:
        values, V = torch.linalg.eigh(M.T @ M)
        Vt = V[:, :rank].T
        sigma = values[:rank].clamp(min=0).sqrt()
        U = (M @ Vt.T) / sigma
    A = (sigma.sqrt()[:, None] * Vt).to(W)
    B = (U * sigma.sqrt()).to(W)
    return A, B, (M - B.cpu().double() @ A.cpu().double()).to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        parts = split(base.weight, rank)
        self.A = nn.Parameter(parts[0])
        self.B = nn.Parameter(parts[1])
        self.register_buffer("R", parts[2], persistent=False)

    def forward(self, x):
        return nn.functional.linear(x, self.R + self.B.matmul(self.A), self.base.bias)

    def delta(self):
        return self.R + self.B.matmul(self.A) - self.base.weight
