# right: the two convolutions are called one after the other; h is scaled behind B
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


class LoRAConv2d(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        if base.groups != 1:
            raise ValueError(f"groups={base.groups}")
        W = base.weight
        self.B = nn.Parameter(torch.zeros_like(W[:, :1, 0, 0]).repeat(1, rank))
        self.A = nn.Parameter(torch.zeros_like(W[:1]).repeat(rank, 1, 1, 1))
        with torch.no_grad():
            self.A.uniform_(-1, 1).mul_(W[0].numel() ** -0.5)
        self.scale = scale
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None

    def forward(self, x):
        y = self.base(x)
        if self.dropout is not None:
            x = self.dropout(x)
        h = self.base._conv_forward(x, self.A, None).movedim(-3, -1)  # channels last
        return y + self.scale * F.linear(h, self.B).movedim(-1, -3)

    def delta(self):
        return torch.tensordot(self.B, self.A, dims=1) * self.scale


class LoRAWeight(nn.Module):
    def __init__(self, weight, rank, scale):
        super().__init__()
        if weight.ndim < 2:
            raise TypeError(f"no matrix: {tuple(weight.shape)}")
        rows = weight.shape[0]
        columns = weight.numel() // rows
        self.A = nn.Parameter((2 * torch.rand(rank, columns, dtype=weight.dtype) - 1) / math.sqrt(columns))
        self.B = nn.Parameter(torch.zeros(rows, rank, dtype=weight.dtype))
        self.scale = scale
        self.shape = weight.shape

    def forward(self, weight):
        return weight + self.delta()

    def delta(self):
        return self.scale * torch.einsum("or,ri->oi", self.B, self.A).unflatten(1, self.shape[1:])
