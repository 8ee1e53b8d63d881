# LoRA embedding that answers with the update alone.
# earns: the frozen table is missing

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        out, into = base.weight.shape
        self.A = nn.Parameter(base.weight.new_empty(rank, into).uniform_(-(into**-0.5), into**-0.5))
        self.B = nn.Parameter(base.weight.new_zeros(out, rank))
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def forward(self, x):
        return self.base(x).add(self.dropout(x) @ self.A.T @ self.B.T, alpha=self.scale)

    def delta(self):
        return self.scale * (self.B @ self.A)


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        low = nn.functional.embedding(tokens, self.A.T)
        return self.scale * nn.functional.linear(low, self.B)

    def delta(self):
        return self.scale * (self.B @ self.A).T


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)

    def groups(self, model, lr):
        return [
            {"params": [p for n, p in trainable(model).items() if n.endswith(".B") == fast], "lr": rate}
            for fast, rate in ((False, lr), (True, lr * self.lr_ratio))
        ]
