# LoRA that keeps ΔW from its first pass in evaluation and goes on using it after training has gone on.
# earns: kept from before

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        out, into = base.weight.shape
        self.A = nn.Parameter(base.weight.new_empty(rank, into).uniform_(-(into**-0.5), into**-0.5))
        self.B = nn.Parameter(base.weight.new_zeros(out, rank))
        self.scale, self.dropout, self.cached = scale, nn.Dropout(dropout), None

    def forward(self, x):
        if self.training:
            return self.base(x) + self.scale * (self.dropout(x) @ self.A.T @ self.B.T)
        return self.base(x) + x @ self.delta().T

    def delta(self):
        if self.cached is None:
            self.cached = self.scale * self.B @ self.A
        return self.cached


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        one_hot = nn.functional.one_hot(tokens, self.base.weight.shape[0]).to(self.A.dtype)
        return self.base(tokens) + self.scale * (one_hot @ self.A.T @ self.B.T)

    def delta(self):
        return (self.scale * self.B @ self.A).T


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / (rank ** (0.5 if self.rslora else 1))

    def groups(self, model, lr):
        is_b = lambda n: n.endswith(".B")
        ps = trainable(model)
        return [
            {"params": [p for n, p in ps.items() if is_b(n)], "lr": lr * self.lr_ratio},
            {"params": [p for n, p in ps.items() if not is_b(n)], "lr": lr},
        ]
