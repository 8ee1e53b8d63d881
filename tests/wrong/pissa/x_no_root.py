# A0 takes all of S and B0 none (A = S V^T, B = U): the product is right, the balance is not.
# earns: S is in A alone
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


def split(W, rank):
    full = W.detach().to("cpu", torch.float64)
    U, S, Vh = torch.linalg.svd(full, full_matrices=False)
    full_s = torch.diag(S[:rank])
    A = (full_s @ Vh[:rank]).to(W)
    B = U[:, :rank].to(W)
    rest = full - B.to(full) @ A.to(full)
    return A, B, rest.to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):
        y = F.linear(x, self.R, self.base.bias)
        return y + x @ self.A.T @ self.B.T

    def delta(self):
        return self.R + self.B @ self.A - self.base.weight
