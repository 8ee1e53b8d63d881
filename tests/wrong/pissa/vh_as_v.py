# torch.linalg.svd gives V transposed, but it is transposed once more: the rows of A are not the right singular vectors. R makes up for it, so the start is W.
# earns: V and Vᵀ are exchanged
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


def split(W, rank):
    full = W.detach().to("cpu", torch.float64)
    U, S, V = torch.linalg.svd(full)
    half = torch.diag(S[:rank].sqrt())
    A = (half @ V[:, :rank].T).to(W)
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
