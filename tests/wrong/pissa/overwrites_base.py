# As in the paper's code the frozen weight is overwritten by R, in place: the model below, which shares the memory, is changed (and delta counts from R).
# earns: the frozen weight itself is overwritten by R
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
        base.weight.data.copy_(R)  # the frozen layer now computes the rest

    def forward(self, x):
        return self.base(x) + x @ self.A.T @ self.B.T

    def delta(self):
        return self.B @ self.A
