# PiSSA that adds the bias of the frozen layer on the way through A and B too.
# earns: the bias is added on both paths

import math

import torch
import torch.nn.functional as F
from torch import nn


def split(W, rank):
    D = W.detach().cpu().double()
    U, S, Vh = torch.linalg.svd(D, full_matrices=False)
    root = S[:rank].sqrt()
    A, B = (Vh[:rank] * root.view(-1, 1)).to(W), (U[:, :rank] * root).to(W)
    return A, B, (D - B.cpu().double().matmul(A.cpu().double())).to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):
        return F.linear(x, self.R, self.base.bias) + F.linear(x @ self.A.T, self.B, self.base.bias)

    def delta(self):
        return self.R - self.base.weight + self.B @ self.A
