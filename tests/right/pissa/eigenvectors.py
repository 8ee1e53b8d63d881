# The singular vectors from the eigenvectors of WWᵀ or WᵀW, in double precision; A's rows come in rising order.

import torch
from torch import nn


def principal(M, rank):
    flat = M.shape[0] <= M.shape[1]
    squares, vectors = torch.linalg.eigh(M @ M.T if flat else M.T @ M)
    sigma, vectors = squares[-rank:].clamp(min=0).sqrt(), vectors[:, -rank:]
    other = (M.T if flat else M) @ vectors / sigma
    left, right = (vectors, other) if flat else (other, vectors)
    return left * sigma.sqrt(), (right * sigma.sqrt()).T


def split(W, rank):
    M = W.detach().to(device="cpu", dtype=torch.float64)
    B, A = (part.to(device=W.device, dtype=W.dtype) for part in principal(M, rank))
    taken = torch.einsum("or,ri->oi", B.to(M), A.to(M))
    return A, B, torch.sub(M, taken).to(device=W.device, dtype=W.dtype)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        parts = dict(zip("ABR", split(base.weight, rank)))
        self.register_buffer("R", parts.pop("R"), persistent=False)
        for name, part in parts.items():
            self.register_parameter(name, nn.Parameter(part))

    def forward(self, x):
        return nn.functional.linear(x, torch.addmm(self.R, self.B, self.A), self.base.bias)

    def delta(self):
        return torch.addmm(self.R - self.base.weight, self.B, self.A)
