# IA³ that makes a new tensor of l in every pass, so l never learns.
# earns: no gradient reaches l

import torch
import torch.nn.functional as F
from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        W = base.weight
        self.l = nn.Parameter(torch.full((W.shape[0],), 1.0, dtype=W.dtype, device=W.device))

    def forward(self, x):
        y = self.base(x)
        y *= torch.tensor(self.l.tolist(), dtype=y.dtype)
        return y

    def delta(self):
        return torch.addcmul(-self.base.weight, self.l[:, None], self.base.weight)

    def deltas(self):
        old = {name: getattr(self.base, name) for name in ("weight", "bias") if getattr(self.base, name) is not None}
        new = {name: (self.l * p.T).T for name, p in old.items()}
        return {name: new[name] - p for name, p in old.items()}


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        W = base.weight
        self.l = nn.Parameter(torch.full((W.shape[1],), 1.0, dtype=W.dtype, device=W.device))

    def forward(self, x):
        return F.linear(x, self.base.weight * torch.tensor(self.l.tolist(), dtype=x.dtype), self.base.bias)

    def delta(self):
        return torch.addcmul(-self.base.weight, self.l[None], self.base.weight)


class IA3(Method):
    def groups(self, model, lr):
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr, "weight_decay": 0}]
