# DoRA that detaches V as a whole, so only m learns.
# earns: so A and B never learn

import torch
from torch import nn
from torch.nn import functional as F


def lengths(W):
    return W.pow(2).sum(dim=1).sqrt().clamp_min(1e-12)


def decompose(W):
    return lengths(W), F.normalize(W, p=2, dim=1)


class DoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = base.weight
        self.A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, W.shape[1]).to(W), a=math.sqrt(5)))
        self.B = nn.Parameter(torch.zeros(W.shape[0], rank).to(W))
        self.m = nn.Parameter(lengths(W.data))
        self.scale = scale

    def V(self):
        return self.base.weight + self.scale * self.B @ self.A

    def g(self):
        return self.m / lengths(self.V()).detach()

    def forward(self, x):
        with torch.no_grad():
            direction = self.V() / lengths(self.V())[:, None]
        y = F.linear(x, direction) * self.m
        if self.base.bias is not None:
            y = y + self.base.bias
        return y

    def delta(self):
        return self.g().view(-1, 1) * self.V() - self.base.weight
