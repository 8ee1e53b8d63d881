# right
import torch
from torch import nn
from torch.nn import functional as fn

from minipeft.attach import WeightWrapper


def lengths(W):
    found = torch.linalg.vector_norm(W, ord=2, dim=1)
    floor = torch.full_like(found, torch.finfo(found.dtype).tiny)
    return torch.maximum(found, floor)


def decompose(W):
    size = lengths(W)
    return size, (W.T / size).T


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight
        A = torch.empty(rank, W.shape[1], dtype=W.dtype, device=W.device)
        edge = W.shape[1] ** -0.5
        nn.init.uniform_(A, -edge, edge)
        self.scale = scale
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(torch.zeros(len(W), rank, dtype=W.dtype, device=W.device))
        with torch.no_grad():
            self.m = nn.Parameter(lengths(W).clone())

    def V(self):
        return torch.add(self.base.weight, self.B @ self.A, alpha=self.scale)

    def g(self):
        return self.m.div(lengths(self.V().detach()))

    def forward(self, x):
        y = self.base(x)
        shift = self.scale * fn.linear(x @ self.A.mT, self.B)
        plain = y if self.base.bias is None else y - self.base.bias
        # g(Wx + shift) + b, at the start y exactly
        return torch.addcmul(y, self.g() - 1, plain + shift) + shift

    def delta(self):
        W, g = self.base.weight, self.g()
        return torch.diag(g) @ self.V() - W
