# IA³ whose scale on the input is a buffer; only the scale on the output is a parameter.
# earns: l is a plain tensor, which no optimizer will find

import torch
from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(torch.ones_like(base.weight[:, 0]))

    def forward(self, x):
        return self.base(x) * self.l

    def delta(self):
        scaled = self.base.weight * self.l.unsqueeze(1)
        return scaled - self.base.weight

    def deltas(self):
        out = {"weight": self.delta()}
        b = self.base.bias
        if b is not None:
            out["bias"] = b * (self.l - 1)
        return out


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.register_buffer("l", torch.ones_like(base.weight[0]))

    def forward(self, x):
        return self.base(x * self.l)

    def delta(self):
        scaled = self.base.weight * self.l.unsqueeze(0)
        return scaled - self.base.weight


class IA3(Method):
    def groups(self, model, lr):
        return [dict(group, weight_decay=0.0) for group in super().groups(model, lr)]
