# s·B is made in the first pass.
# earns: computed of A and B in the first pass and kept

import math
import torch
import torch.nn.functional as F
from torch import nn


class LoRAConv2d(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        if base.groups > 1:
            raise ValueError("a convolution in groups cannot have LoRA here")
        w = base.weight
        bound = 1 / math.sqrt(w[0].numel())
        self.A = nn.Parameter(torch.empty(rank, *w.shape[1:], dtype=w.dtype, device=w.device).uniform_(-bound, bound))
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype, device=w.device))
        self.scale = scale
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        small = self.base._conv_forward(self.drop(x), self.A, None)
        if not hasattr(self, "sB"):
            self.sB = self.scale * self.B
        change = torch.einsum("or,bryx->boyx", self.sB, small)
        return self.base(x) + change

    def delta(self):
        return self.scale * torch.einsum("or,rikl->oikl", self.B, self.A)


class LoRAWeight(nn.Module):
    def __init__(self, weight, rank, scale):
        super().__init__()
        if weight.dim() < 2:
            raise TypeError("a vector has no low-rank change")
        self.shape, self.scale = tuple(weight.shape), scale
        out, into = weight.shape[0], weight.numel() // weight.shape[0]
        A = torch.empty(rank, into, dtype=weight.dtype, device=weight.device)
        self.A = nn.Parameter(A.uniform_(-1, 1) / math.sqrt(into))
        self.B = nn.Parameter(torch.zeros(out, rank, dtype=weight.dtype, device=weight.device))

    def forward(self, weight):
        return weight + self.delta()

    def delta(self):
        return (self.B @ self.A).reshape(self.shape) * self.scale
