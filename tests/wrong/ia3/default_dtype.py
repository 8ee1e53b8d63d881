# IA3Input makes its vector in torch's default type instead of the base's: a base in another precision gets a vector that does not fit.
# earns: l does not have the type of the base
import torch
from torch import nn

from minipeft.attach import Method, WeightWrapper


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        n_out, _ = base.weight.shape
        self.l = nn.Parameter(torch.ones(n_out, dtype=base.weight.dtype, device=base.weight.device))

    def forward(self, x):
        return self.base(x) * self.l

    def delta(self):
        W = self.base.weight
        return self.l.unsqueeze(1) * W - W

    def deltas(self):
        changes = {"weight": self.delta()}
        if self.base.bias is not None:
            changes["bias"] = (self.l - 1) * self.base.bias
        return changes


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        _, n_in = base.weight.shape
        self.l = nn.Parameter(torch.ones(n_in))

    def forward(self, x):
        return self.base(x * self.l)

    def delta(self):
        W = self.base.weight
        return W * self.l - W


class IA3(Method):
    def groups(self, model, lr):
        groups = super().groups(model, lr)
        for group in groups:
            group["weight_decay"] = 0.0
        return groups
