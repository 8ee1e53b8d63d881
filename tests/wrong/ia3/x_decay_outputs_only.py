# groups switches the decay off for keys and values only; the vectors before down decay.
# earns: weight decay draws the scales to zero
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
        self.l = nn.Parameter(torch.ones(n_in, dtype=base.weight.dtype, device=base.weight.device))

    def forward(self, x):
        return self.base(x * self.l)

    def delta(self):
        W = self.base.weight
        return W * self.l - W


class IA3(Method):
    def groups(self, model, lr):
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        calm = [p for n, p in named.items() if n.split(".")[-2] in self.outputs]
        rest = [p for n, p in named.items() if n.split(".")[-2] not in self.outputs]
        return [{"params": calm, "lr": lr, "weight_decay": 0.0}, {"params": rest, "lr": lr}]
