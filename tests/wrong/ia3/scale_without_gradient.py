# IA³ that multiplies by the numbers of l and not by the parameter.
# earns: no gradient reaches l

import torch
from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        n_out = base.weight.size(0)
        self.l = nn.Parameter(torch.ones(n_out, dtype=base.weight.dtype, device=base.weight.device))

    def forward(self, x):
        keys = self.base(x)
        return torch.mul(keys, self.l.data)

    def delta(self):
        W = self.base.weight
        return torch.einsum("o,oi->oi", self.l, W) - W

    def deltas(self):
        changes = dict(super().deltas())
        if self.base.bias is not None:
            changes["bias"] = self.base.bias * self.l - self.base.bias
        return changes


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        n_in = base.weight.size(1)
        self.l = nn.Parameter(torch.ones(n_in, dtype=base.weight.dtype, device=base.weight.device))

    def forward(self, x):
        return self.base(torch.mul(x, self.l.data))

    def delta(self):
        W = self.base.weight
        return torch.einsum("i,oi->oi", self.l, W) - W


class IA3(Method):
    def groups(self, model, lr):
        groups = super().groups(model, lr)
        for group in groups:
            group["weight_decay"] = 0.0
        return groups
