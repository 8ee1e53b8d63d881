# PiSSA as the library does it: the base's weight is replaced by the residual, and a LoRA stands beside it.
# earns: the frozen weight itself is overwritten

import torch
from torch import nn


def split(W, rank):
    exact = W.detach().cpu().double()
    U, S, Vt = torch.linalg.svd(exact, full_matrices=False)
    A = (S[:rank].sqrt().diag() @ Vt[:rank]).to(W)
    B = (U[:, :rank] @ S[:rank].sqrt().diag()).to(W)
    return A, B, (exact - B.cpu().double() @ A.cpu().double()).to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, residual = split(base.weight, rank)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        base.weight.data = residual

    def forward(self, x):
        return self.base(x) + (x @ self.A.T) @ self.B.T

    def delta(self):
        return self.B @ self.A
