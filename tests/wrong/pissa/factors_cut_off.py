# PiSSA that computes the weight R + BA under torch.no_grad, so A and B never learn.
# earns: cut off from the gradient

import torch
from torch import nn


def split(W, rank):
    M = W.detach().cpu().double()
    U, S, Vt = torch.linalg.svd(M, full_matrices=False)
    r = S[:rank].sqrt()
    A, B = (r[:, None] * Vt[:rank]).to(W), (U[:, :rank] * r).to(W)
    return A, B, (M - B.cpu().double() @ A.cpu().double()).to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(base.weight, rank)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)

    @torch.no_grad()
    def whole(self):
        return self.R + self.B @ self.A

    def forward(self, x):
        return nn.functional.linear(x, self.whole(), self.base.bias)

    def delta(self):
        return self.R + self.B @ self.A - self.base.weight
