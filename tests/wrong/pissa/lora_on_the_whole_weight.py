# PiSSA whose A and B are right, but they stand beside the whole W: nothing is taken out.
# earns: W = R + B₀A₀

import torch
from torch import nn
from torch.nn import functional as F


def split(W, rank):
    U, S, Vh = torch.linalg.svd(W.detach().to("cpu", torch.float64), full_matrices=False)
    s = torch.diag(S[:rank].sqrt())
    B = (U[:, :rank] @ s).to(W.device, W.dtype)
    A = (s @ Vh[:rank]).to(W.device, W.dtype)
    return A, B, (W.detach().double() - B.double() @ A.double()).to(W.dtype)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):
        return F.linear(x, self.base.weight, self.base.bias) + x @ self.A.T @ self.B.T

    def delta(self):
        return (self.R - self.base.weight) + self.B @ self.A
