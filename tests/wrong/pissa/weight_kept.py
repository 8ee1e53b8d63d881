# PiSSA that keeps the weight R + BA from its first pass.
# earns: kept from before

import torch
from torch import nn


def split(W, rank):
    M = W.detach().cpu().double()
    U, S, Vt = torch.linalg.svd(M, full_matrices=False)
    r = torch.pow(S[:rank], 0.5)
    A, B = torch.mul(Vt[:rank].T, r).T.to(W), torch.mul(U[:, :rank], r).to(W)
    return A, B, (M - B.cpu().double() @ A.cpu().double()).to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)
        self.full = None

    def forward(self, x):
        if self.full is None:
            self.full = self.R + self.B @ self.A
        y = x @ self.full.T
        return y if self.base.bias is None else y + self.base.bias

    def delta(self):
        return self.R + self.B @ self.A - self.base.weight
