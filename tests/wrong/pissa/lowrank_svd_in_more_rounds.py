# split uses the randomised torch.svd_lowrank (as fast starts do): only approximate singular vectors, and another R at every load.
# earns: the decomposition is a randomised one
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


def split(W, rank):
    full = W.detach().to("cpu", torch.float64)
    U, S, V = torch.svd_lowrank(full, q=rank, niter=4)
    Vh = V.T
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
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):
        y = F.linear(x, self.R, self.base.bias)
        return y + x @ self.A.T @ self.B.T

    def delta(self):
        return self.R + self.B @ self.A - self.base.weight
