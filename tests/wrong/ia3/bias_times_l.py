# deltas gives l*b as the change of the bias, not (l-1)*b: what is merged has the bias b + l*b.
# earns: for the bias the scaled one is told instead of the change
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
            changes["bias"] = self.l * self.base.bias
        return changes


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        _, n_in = base.weight.shape
        self.l = nn.Parameter(torch.ones(n_in, dtype=base.weight.dtype, device=base.weight.device))

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
