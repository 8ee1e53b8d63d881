# right: without dropout the layer convolves once, with the changed kernel
import math

import torch.nn.functional as F
from torch import nn

from minipeft.attach import WeightWrapper


class LoRAConv2d(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        assert_one_group(base)
        out = base.weight.shape[0]
        self.A = nn.Parameter(base.weight.new_empty(rank, *base.weight.shape[1:]))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(base.weight.new_zeros(out, rank))
        self.scale, self.drop = scale, nn.Dropout(dropout)

    def forward(self, x):
        update = self.base._conv_forward(self.drop(x), self.delta(), None)
        return self.base(x) + update

    def delta(self):
        flat = self.B.mul(self.scale).mm(self.A.view(len(self.A), -1))
        return flat.view(self.base.weight.shape)


def assert_one_group(base):
    if base.groups != 1:
        raise ValueError("leave convolutions with groups out")


class LoRAWeight(nn.Module):
    def __init__(self, weight, rank, scale):
        super().__init__()
        if weight.dim() <= 1:
            raise TypeError("weights with one axis have no low-rank change")
        flat = weight.detach().flatten(1)
        self.register_parameter("A", nn.Parameter(flat.new_empty(rank, flat.shape[1])))
        self.register_parameter("B", nn.Parameter(flat.new_zeros(flat.shape[0], rank)))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.scale, self.shape = scale, tuple(weight.shape)

    def forward(self, weight):
        return weight.add(self.delta())

    def delta(self):
        return sum(b[:, None] * a[None, :] for b, a in zip(self.B.T, self.A)).mul(self.scale).view(self.shape)
