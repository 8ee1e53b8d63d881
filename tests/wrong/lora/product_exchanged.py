# LoRA whose ΔW is A @ B, as if A came first in the product.
# earns: in which order

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        rows, columns = base.weight.shape
        self.A = nn.Parameter(base.weight.new_empty(rank, columns))
        bound = columns**-0.5
        nn.init.uniform_(self.A, -bound, bound)
        self.B = nn.Parameter(base.weight.new_zeros(rows, rank))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x_low = self.dropout(x) @ self.A.T
        return self.base(x) + (x_low @ self.B.T) * self.scale

    def delta(self):
        return self.scale * (self.A @ self.B)


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        change = (self.B @ self.A).T * self.scale
        return self.base(tokens) + change[tokens]

    def delta(self):
        return self.scale * (self.B @ self.A).T


class LoRA(Method):
    def scale(self, rank):
        r = math.sqrt(rank) if self.rslora else rank
        return self.alpha / r

    def groups(self, model, lr):
        fast, slow = [], []
        for name, p in trainable(model).items():
            (fast if name.endswith(".B") else slow).append(p)
        return [dict(params=fast, lr=lr * self.lr_ratio), dict(params=slow, lr=lr)]
