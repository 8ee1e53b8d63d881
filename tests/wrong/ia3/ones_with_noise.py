# IA³ whose scales start near one, with a little noise "to break the symmetry".
# earns: l starts at random numbers

import torch
from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        like = base.weight.detach()
        self.l = nn.Parameter(1 + 0.01 * torch.randn_like(like[:, 0]))

    def forward(self, x):
        return torch.einsum("...o,o->...o", self.base(x), self.l)

    def delta(self):
        return torch.einsum("oi,o->oi", self.base.weight, self.l - 1)

    def deltas(self):
        changes = {"weight": self.delta()}
        if (bias := self.base.bias) is not None:
            changes["bias"] = bias * (self.l - 1)
        return changes


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        like = base.weight.detach()
        self.l = nn.Parameter(1 + 0.01 * torch.randn_like(like[0]))

    def forward(self, x):
        return self.base(torch.einsum("...i,i->...i", x, self.l))

    def delta(self):
        return torch.einsum("oi,i->oi", self.base.weight, self.l - 1)


class IA3(Method):
    def groups(self, model, lr):
        return [group | dict(weight_decay=0.0) for group in super().groups(model, lr)]
