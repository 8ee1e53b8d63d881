# right
import torch
from torch import nn
from torch.nn import functional as fn

from minipeft.attach import Method, WeightWrapper

NEUTRAL = 1.0


def vector(weight, axis):
    return nn.Parameter(torch.full((weight.size(axis),), NEUTRAL).to(weight))


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = vector(base.weight, 0)

    def change(self):
        return self.l - NEUTRAL

    def forward(self, x):
        return torch.einsum("...o,o->...o", self.base(x), self.l)

    def delta(self):
        return torch.diag(self.change()) @ self.base.weight

    def deltas(self):
        both = {"weight": self.delta(), "bias": None}
        if self.base.bias is None:
            del both["bias"]
        else:
            both["bias"] = torch.mul(self.base.bias, self.change())
        return both


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.register_parameter("l", vector(base.weight, 1))

    def forward(self, x):
        return self.base(torch.mul(self.l, x))

    def delta(self):
        return torch.einsum("oi,i->oi", self.base.weight, self.l - NEUTRAL)


class IA3(Method):
    def groups(self, model, lr):
        return [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": 0, "lr": lr}]
