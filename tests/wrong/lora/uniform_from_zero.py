# LoRA whose A is uniform between 0 and 1/√in: torch.rand without its shift.
# earns: the numbers of A all have one sign

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        W = base.weight
        self.A = nn.Parameter(torch.rand(rank, W.shape[1]).to(W) / W.shape[1] ** 0.5)
        self.B = nn.Parameter(torch.zeros(W.shape[0], rank).to(W))
        self.s = scale
        self.p = dropout

    def forward(self, x):
        out = self.base(x)
        z = nn.functional.dropout(x, self.p, training=self.training)
        z = torch.einsum("...i,ri->...r", z, self.A)
        z = torch.einsum("...r,or->...o", z, self.B)
        return out + self.s * z

    def delta(self):
        return torch.einsum("or,ri->oi", self.B, self.A) * self.s


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        rows = self.A.T[tokens]
        return self.base(tokens) + self.scale * torch.einsum("...r,dr->...d", rows, self.B)

    def delta(self):
        return torch.einsum("rv,dr->vd", self.A, self.B) * self.scale


class LoRA(Method):
    def scale(self, rank):
        divisor = rank**0.5 if self.rslora else rank
        return self.alpha / divisor

    def groups(self, model, lr):
        return [
            {"params": [p], "lr": lr * self.lr_ratio if name.split(".")[-1] == "B" else lr}
            for name, p in trainable(model).items()
        ]
