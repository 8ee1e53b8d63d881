# LoRA that multiplies x by W + s·BA in forward and forgets the bias; dropout has no place left in it.
# earns: bias

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        self.rank, self.scale = rank, scale
        self.dropout = nn.Dropout(p=dropout)
        o, i = base.weight.shape
        self.B = nn.Parameter(base.weight.new_zeros((o, rank)))
        a = base.weight.new_zeros((rank, i))
        self.A = nn.Parameter(a.uniform_(-1 / i**0.5, 1 / i**0.5))

    def forward(self, x):
        W = self.base.weight + self.delta()
        return x @ W.T

    def delta(self):
        return (self.B * self.scale) @ self.A


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        return torch.nn.functional.embedding(tokens, self.base.weight + self.delta())

    def delta(self):
        return self.A.T @ (self.scale * self.B).T


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / rank**0.5 if self.rslora else self.alpha / rank

    def groups(self, model, lr):
        named = trainable(model)
        b = [n for n in named if n.endswith(".B")]
        return [
            {"params": [named[n] for n in b], "lr": self.lr_ratio * lr},
            {"params": [named[n] for n in named if n not in b], "lr": lr},
        ]
