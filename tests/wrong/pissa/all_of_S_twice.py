# PiSSA that multiplies both U and Vᵀ by S.
# earns: so their product has S²

import torch
from torch import nn


def split(W, rank):
    D = W.detach().double().cpu()
    svd = torch.linalg.svd(D, full_matrices=False)
    A = svd.S[:rank, None] * svd.Vh[:rank]
    B = svd.U[:, :rank] * svd.S[None, :rank]
    A, B = A.to(W), B.to(W)
    return A, B, (D - B.double().cpu() @ A.double().cpu()).to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.register_parameter("A", nn.Parameter(A))
        self.register_parameter("B", nn.Parameter(B))
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):
        low = torch.einsum("...i,ri->...r", x, self.A)
        out = torch.einsum("...r,or->...o", low, self.B)
        return out + nn.functional.linear(x, self.R, self.base.bias)

    def delta(self):
        return torch.einsum("or,ri->oi", self.B, self.A) + self.R - self.base.weight
