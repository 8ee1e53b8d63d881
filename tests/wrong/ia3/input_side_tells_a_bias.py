# IA³ whose scale on the input tells a change of the bias too, as the one on the output does.
# earns: a scale on the input leaves the bias as it is

from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[0]))

    def forward(self, x):
        return self.base(x) * self.l

    def delta(self):
        return (self.l - 1).unsqueeze(1) * self.base.weight

    def deltas(self):
        changes = super().deltas()
        if self.base.bias is not None:
            changes["bias"] = self.base.bias * (self.l - 1)
        return changes


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[1]))

    def forward(self, x):
        return self.base(x * self.l)

    def delta(self):
        return (self.l - 1).unsqueeze(0) * self.base.weight

    def deltas(self):
        changes = super().deltas()
        if self.base.bias is not None:
            changes["bias"] = self.base.bias * (self.l - 1)
        return changes


class IA3(Method):
    def groups(self, model, lr):
        return [{**g, "weight_decay": 0.0} for g in super().groups(model, lr)]
