# IA³ whose merge puts the input's scale into the rows; the output's side is right.
# earns: one on the input into the rows

from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[0]))

    def forward(self, x):
        return self.base(x) * self.l

    def delta(self):
        return (self.l.reshape(-1, 1) - 1) * self.base.weight

    def deltas(self):
        changed = super().deltas()
        if self.base.bias is not None:
            changed.update(bias=(self.l - 1) * self.base.bias)
        return changed


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[1]))

    def forward(self, x):
        return self.base(x * self.l)

    def delta(self):
        return (self.l.reshape(-1, 1) - 1) * self.base.weight


class IA3(Method):
    def groups(self, model, lr):
        return [{**g, "weight_decay": 0.0} for g in super().groups(model, lr)]
