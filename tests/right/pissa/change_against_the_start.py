# The product as a sum of r outer products with turned signs; ΔW against B₀A₀, which a second buffer keeps.

import torch
from torch import nn


def split(W, rank):
    D = W.detach().cpu().double()
    U, S, Vh = torch.linalg.svd(D)
    B = torch.stack([s.sqrt() * u for s, u in zip(S[:rank], U.T)], dim=1)
    A = torch.stack([s.sqrt() * v for s, v in zip(S[:rank], Vh)])
    A, B = -A.to(W), -B.to(W)
    return A, B, D.sub(B.cpu().double().mm(A.cpu().double())).to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A = nn.Parameter(A.clone())
        self.B = nn.Parameter(B.clone())
        self.register_buffer("R", R, persistent=False)
        self.register_buffer("start", B @ A, persistent=False)

    def forward(self, x):
        y = x @ self.R.mT
        for column, row in zip(self.B.mT, self.A):
            y = y + (x * row).sum(-1, keepdim=True) * column
        return y if self.base.bias is None else y + self.base.bias

    def delta(self):
        return self.B @ self.A - self.start
