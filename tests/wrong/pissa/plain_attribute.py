# R is kept as a plain attribute and not as a buffer: it stays behind when the layer is moved to another device or type.
# earns: R is a plain tensor
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


def split(W, rank):
    full = W.detach().to("cpu", torch.float64)
    U, S, Vh = torch.linalg.svd(full, full_matrices=False)
    half = torch.diag(S[:rank].sqrt())
    A = (half @ Vh[:rank]).to(W)
    B = (U[:, :rank] @ half).to(W)
    rest = full - B.to(full) @ A.to(full)
    return A, B, rest.to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B)
        self.R = R

    def forward(self, x):
        y = F.linear(x, self.R, self.base.bias)
        return y + x @ self.A.T @ self.B.T

    def delta(self):
        return self.R + self.B @ self.A - self.base.weight
