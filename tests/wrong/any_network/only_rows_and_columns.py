# A of the named weight has the length of its last axis.
# earns: A reads only the last axis

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


class LoRAConv2d(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        if base.groups != 1:
            raise ValueError("only convolutions with groups=1")
        W = base.weight
        bound = W[0].numel() ** -0.5
        self.A = nn.Parameter(W.new_empty(rank, *W.shape[1:]).uniform_(-bound, bound))
        self.B = nn.Parameter(W.new_zeros(W.shape[0], rank))
        self.scale, self.drop = scale, nn.Dropout(dropout)

    def forward(self, x):
        h = self.base._conv_forward(self.drop(x), self.A, None)
        return self.base(x) + self.scale * torch.einsum("or,brij->boij", self.B, h)

    def delta(self):
        return self.scale * torch.einsum("or,rcij->ocij", self.B, self.A)


class LoRAWeight(nn.Module):
    def __init__(self, weight, rank, scale):
        super().__init__()
        if weight.ndim < 2:
            raise TypeError("a vector has no low-rank change")
        self.shape, self.scale = weight.shape, scale
        inputs = weight.shape[-1]
        self.A = nn.Parameter(weight.new_empty(rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
        self.B = nn.Parameter(weight.new_zeros(len(weight), rank))

    def forward(self, weight):
        return weight + self.delta()

    def delta(self):
        return self.scale * torch.matmul(self.B, self.A).reshape(self.shape)
