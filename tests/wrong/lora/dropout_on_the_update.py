# LoRA with the dropout on what B puts out, after the product.
# earns: dropout acts on the finished update

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        out, into = base.weight.shape
        bound = 1 / math.sqrt(into)
        self.A = nn.Parameter(base.weight.new_empty(rank, into).uniform_(-bound, bound))
        self.B = nn.Parameter(base.weight.new_zeros(out, rank))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        update = x @ self.A.transpose(0, 1) @ self.B.transpose(0, 1)
        update = self.dropout(update) * self.scale
        return update + self.base(x)

    def delta(self):
        return (self.scale * self.B) @ self.A


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        picked = nn.functional.embedding(tokens, self.delta())
        return picked + self.base(tokens)

    def delta(self):
        return self.A.transpose(0, 1) @ (self.scale * self.B).transpose(0, 1)


class LoRA(Method):
    def scale(self, rank):
        root = 0.5 if self.rslora else 1.0
        return self.alpha / rank**root

    def groups(self, model, lr):
        params = trainable(model)
        names_B = [n for n in params if n[-2:] == ".B"]
        others = [n for n in params if n[-2:] != ".B"]
        return [
            {"params": [params[n] for n in others], "lr": lr},
            {"params": [params[n] for n in names_B], "lr": lr * self.lr_ratio},
        ]
