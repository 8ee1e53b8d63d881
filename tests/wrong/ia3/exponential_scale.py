# IA³ whose scale is exp(l), with l at zero, so that it stays positive.
# earns: the scale is a function of l and not l itself

import torch
from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_zeros(base.weight.shape[0]))

    def forward(self, x):
        return self.base(x) * self.l.exp()

    def delta(self):
        return self.base.weight * torch.expm1(self.l)[:, None]

    def deltas(self):
        found = super().deltas()
        if self.base.bias is not None:
            found["bias"] = self.base.bias * torch.expm1(self.l)
        return found


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_zeros(base.weight.shape[1]))

    def forward(self, x):
        return self.base(x * self.l.exp())

    def delta(self):
        return self.base.weight * torch.expm1(self.l)


class IA3(Method):
    def groups(self, model, lr):
        groups = super().groups(model, lr)
        groups[0]["weight_decay"] = 0.0
        return groups
