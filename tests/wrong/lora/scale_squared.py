# LoRA that multiplies by s after A and again after B; the merge has s once.
# earns: the scale is applied twice

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        W = base.weight
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.A = nn.Parameter(torch.empty(rank, W.shape[1], dtype=W.dtype, device=W.device))
        self.B = nn.Parameter(torch.zeros(W.shape[0], rank, dtype=W.dtype, device=W.device))
        torch.nn.init.kaiming_uniform_(self.A, math.sqrt(5))

    def forward(self, x):
        h = self.dropout(x) @ self.A.mT
        h = h * self.scale
        y = h @ self.B.mT
        return self.base(x) + y * self.scale

    def delta(self):
        return self.B @ self.A * self.scale


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        y = self.A.mT[tokens] @ self.B.mT
        return self.base(tokens) + y * self.scale

    def delta(self):
        return (self.B @ self.A).mT * self.scale


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / rank if not self.rslora else self.alpha / rank**0.5

    def groups(self, model, lr):
        groups = {"A": [], "B": []}
        for name, p in trainable(model).items():
            groups["B" if name.endswith(".B") else "A"].append(p)
        return [{"params": groups["A"], "lr": lr}, {"params": groups["B"], "lr": self.lr_ratio * lr}]
