# PiSSA whose parts come back in double precision.
# earns: come back in double precision

import math

import torch
import torch.nn.functional as F
from torch import nn


def split(W, rank):
    D = W.detach().cpu().double()
    U, S, Vh = torch.linalg.svd(D, full_matrices=False)
    root = S[:rank].sqrt()
    A, B = (Vh[:rank] * root.view(-1, 1)), (U[:, :rank] * root)
    return A, B, (D - B.cpu().double().matmul(A.cpu().double()))


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):
        return F.linear(x, self.R, self.base.bias) + (x @ self.A.T) @ self.B.T

    def delta(self):
        return self.R - self.base.weight + self.B @ self.A
