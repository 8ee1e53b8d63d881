# IA³ whose scales are made by torch.ones without a type: in a bfloat16 model they are float32.
# earns: l does not have the type of the base

import torch
from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        out_features, _ = base.weight.shape
        self.l = nn.Parameter(torch.ones(out_features))

    def forward(self, x):
        y = self.base(x)
        return y * self.l.expand_as(y)

    def delta(self):
        return torch.diag(self.l - 1) @ self.base.weight

    def deltas(self):
        found = super().deltas()
        if self.base.bias is not None:
            found |= {"bias": (self.l - 1) * self.base.bias}
        return found


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        _, in_features = base.weight.shape
        self.l = nn.Parameter(torch.ones(in_features))

    def forward(self, x):
        return self.base(x * self.l.expand_as(x))

    def delta(self):
        return self.base.weight @ torch.diag(self.l - 1)


class IA3(Method):
    def groups(self, model, lr):
        scales = [p for p in model.parameters() if p.requires_grad]
        return [{"params": scales, "lr": lr, "weight_decay": 0.0}]
