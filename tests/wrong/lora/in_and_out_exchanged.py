# LoRA whose author reads the weight of nn.Linear as (in, out): A and B get each other's sizes.
# earns: (out, in)

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        d_in, d_out = base.weight.shape
        self.A = nn.Parameter(base.weight.new_empty(rank, d_in).uniform_(-(d_in**-0.5), d_in**-0.5))
        self.B = nn.Parameter(base.weight.new_zeros(d_out, rank))
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def forward(self, x):
        return self.base(x) + self.scale * (self.dropout(x) @ self.A.T @ self.B.T)

    def delta(self):
        return self.scale * (self.B @ self.A)


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        return self.base(tokens) + self.scale * (self.A.T[tokens] @ self.B.T)

    def delta(self):
        return self.scale * (self.A.T @ self.B.T)


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)

    def groups(self, model, lr):
        out = []
        for name, p in trainable(model).items():
            rate = lr * self.lr_ratio if name.endswith(".B") else lr
            out.append({"params": [p], "lr": rate})
        return out
