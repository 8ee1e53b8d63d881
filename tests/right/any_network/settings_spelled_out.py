# right
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


def rim(base, x):
    """The picture with the rim that the base sees, and the padding that is left to do."""
    if base.padding_mode == "zeros":
        return x, base.padding
    (top, left) = base.padding
    return F.pad(x, (left, left, top, top), mode=base.padding_mode), 0


class LoRAConv2d(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        if base.groups > 1:
            raise ValueError("a convolution in groups has no such update")
        W = base.weight
        bound = 1 / math.sqrt(W[0].numel())
        start = torch.empty((rank, *W.shape[1:]), dtype=W.dtype, device=W.device).uniform_(-bound, bound)
        self.A = nn.Parameter(start)
        self.B = nn.Parameter(torch.zeros(W.shape[0], rank, dtype=W.dtype, device=W.device))
        self.scale, self.p = scale, dropout

    def forward(self, x):
        padded, padding = rim(self.base, F.dropout(x, self.p, self.training))
        h = F.conv2d(padded, self.A, stride=self.base.stride, padding=padding, dilation=self.base.dilation)
        return self.base(x) + self.scale * torch.einsum("or,brij->boij", self.B, h)

    def delta(self):
        return self.scale * torch.einsum("or,rcij->ocij", self.B, self.A)


class LoRAWeight(nn.Module):
    def __init__(self, weight, rank, scale):
        super().__init__()
        if weight.ndim == 1:
            raise TypeError("a vector is no matrix")
        self.shape, self.scale = weight.shape, scale
        inputs = math.prod(weight.shape[1:])
        self.A = nn.Parameter(torch.empty(rank, inputs, dtype=weight.dtype, device=weight.device))
        self.B = nn.Parameter(torch.zeros(weight.shape[0], rank, dtype=weight.dtype, device=weight.device))
        nn.init.uniform_(self.A, -(inputs**-0.5), inputs**-0.5)

    def forward(self, weight):
        return torch.add(self.delta(), weight)

    def delta(self):
        return torch.matmul(self.scale * self.B, self.A).reshape(self.shape)
