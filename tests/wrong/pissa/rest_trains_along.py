# PiSSA whose R is an nn.Parameter, to have it move with the module.
# earns: R is a parameter, so it is trained and stored

import torch
from torch import nn


def split(W, rank):
    W64 = W.detach().cpu().to(torch.float64)
    U, S, Vh = torch.linalg.svd(W64, full_matrices=False)
    U_r, S_r, V_r = U[:, :rank], S[:rank], Vh[:rank]
    B = (U_r @ S_r.sqrt().diag()).to(W)
    A = (S_r.sqrt().diag() @ V_r).to(W)
    return A, B, (W64 - (B.cpu().double() @ A.cpu().double())).to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B)
        self.R = nn.Parameter(R)

    def forward(self, x):
        principal = nn.functional.linear(nn.functional.linear(x, self.A), self.B)
        residual = nn.functional.linear(x, self.R, self.base.bias)
        return principal + residual

    def delta(self):
        return self.B @ self.A + self.R - self.base.weight
