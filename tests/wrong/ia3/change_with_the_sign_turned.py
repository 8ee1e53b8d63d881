# IA³ whose ΔW on the input side is W − l ⊙ W, as if it were taken off.
# earns: the sign of the change is turned

from torch import nn


class IA3Output(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[0]))

    def forward(self, x):
        return self.l.mul(self.base(x))

    def delta(self):
        return self.l.sub(1).view(-1, 1) * self.base.weight

    def deltas(self):
        if self.base.bias is None:
            return super().deltas()
        return {"weight": self.delta(), "bias": self.l.sub(1) * self.base.bias}


class IA3Input(WeightWrapper):
    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[1]))

    def forward(self, x):
        return self.base(self.l.mul(x))

    def delta(self):
        return self.base.weight - self.base.weight * self.l


class IA3(Method):
    def groups(self, model, lr):
        return [{"params": [p], "lr": lr, "weight_decay": 0.0} for p in model.parameters() if p.requires_grad]
