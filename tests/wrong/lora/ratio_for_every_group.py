# LoRA+ that gives every parameter the fast learning rate, A too.
# earns: lr_ratio

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        out, into = base.weight.shape
        self.A = nn.Parameter(base.weight.new_empty(rank, into))
        self.B = nn.Parameter(base.weight.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def forward(self, x):
        h = self.dropout(x) @ self.A.T
        return self.base(x) + self.scale * h @ self.B.T

    def delta(self):
        return self.scale * self.B @ self.A


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        return self.base(tokens) + self.scale * (self.A.T @ self.B.T)[tokens]

    def delta(self):
        return self.scale * self.A.T @ self.B.T


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)

    def groups(self, model, lr):
        every = [p for p in trainable(model).values()]
        return [{"params": every, "lr": lr * self.lr_ratio}]
