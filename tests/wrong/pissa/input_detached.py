# PiSSA that detaches x on its way through the frozen rest, "because R is not trained".
# earns: the layer below

import torch
from torch import nn


def split(W, rank):
    exact = W.detach().cpu().to(torch.double)
    U, S, Vt = torch.linalg.svd(exact, full_matrices=False)
    root = S[:rank].sqrt()
    B = torch.stack([root[i] * U[:, i] for i in range(rank)], dim=1).to(W)
    A = torch.stack([root[i] * Vt[i] for i in range(rank)]).to(W)
    return A, B, (exact - B.cpu().double() @ A.cpu().double()).to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):
        frozen = nn.functional.linear(x.detach(), self.R, self.base.bias)
        return frozen + nn.functional.linear(x, self.B @ self.A)

    def delta(self):
        return self.R + self.B @ self.A - self.base.weight
