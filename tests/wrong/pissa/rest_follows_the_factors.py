# PiSSA whose rest is W − BA with the present A and B, so nothing that is learned shows.
# earns: R is computed from the present A and B

import torch
from torch import nn


def split(W, rank):
    full = W.detach().double()
    U, S, Vh = torch.linalg.svd(full)
    k = slice(0, rank)
    B = torch.einsum("or,r->or", U[:, k], S[k].sqrt()).to(W.dtype)
    A = torch.einsum("r,ri->ri", S[k].sqrt(), Vh[k]).to(W.dtype)
    return A, B, (full - B.double() @ A.double()).to(W.dtype)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):
        BA = self.B @ self.A
        rest = self.base.weight - BA
        return nn.functional.linear(x, rest, self.base.bias) + x @ BA.T

    def delta(self):
        return self.R + self.B @ self.A - self.base.weight
