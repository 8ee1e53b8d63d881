# IA³ that scales the bias in forward and forgets it in deltas.
# earns: the change of the bias is not told

import torch
from torch import nn


def vector_of_ones(weight, dim):
    return nn.Parameter(torch.ones_like(weight.detach().select(1 - dim, 0)))


def along(dim, l, tensor):
    shape = [1] * tensor.dim()
    shape[dim] = -1
    return tensor * l.view(shape)


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = vector_of_ones(base.weight, 0)

    def forward(self, x):
        return along(-1, self.l, self.base(x))

    def delta(self):
        return along(0, self.l - 1, self.base.weight)

    def deltas(self):
        changes = super().deltas()
        return changes


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = vector_of_ones(base.weight, 1)

    def forward(self, x):
        return self.base(along(-1, self.l, x))

    def delta(self):
        return along(1, self.l - 1, self.base.weight)


class IA3(Method):
    def groups(self, model, lr):
        groups = super().groups(model, lr)
        for group in groups:
            group.update(weight_decay=0.0)
        return groups
