# IA³ that scales W x alone: the bias is neither scaled in forward nor told by deltas.
# earns: the bias escapes the scale on the output

import torch.nn.functional as F
from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[0]))

    def forward(self, x):
        y = F.linear(x, self.base.weight) * self.l
        if self.base.bias is not None:
            y = y + self.base.bias
        return y

    def delta(self):
        return self.base.weight * self.l[:, None] - self.base.weight

    def deltas(self):
        return {"weight": self.delta()}


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[1]))

    def forward(self, x):
        return F.linear(x * self.l, self.base.weight, self.base.bias)

    def delta(self):
        return self.base.weight * self.l[None] - self.base.weight


class IA3(Method):
    def groups(self, model, lr):
        made = super().groups(model, lr)
        return [{"params": g["params"], "lr": g["lr"], "weight_decay": 0.0} for g in made]
