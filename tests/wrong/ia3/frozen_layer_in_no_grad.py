# IA³ that calls the frozen layer without gradients, "since it is frozen anyway".
# earns: the gradient does not pass the frozen layer

import torch
from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(len(base.weight)))

    def forward(self, x):
        with torch.no_grad():
            y = self.base(x)
        return y * self.l

    def delta(self):
        W = self.base.weight
        return (W.T * (self.l - 1)).T

    def deltas(self):
        b = self.base.bias
        changes = {"weight": self.delta()}
        return changes if b is None else {**changes, "bias": b * (self.l - 1)}


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(len(base.weight.T)))

    def forward(self, x):
        return self.base(x * self.l)

    def delta(self):
        W = self.base.weight
        return W * self.l - W


class IA3(Method):
    def groups(self, model, lr):
        (group,) = super().groups(model, lr)
        return [group | {"weight_decay": 0}]
