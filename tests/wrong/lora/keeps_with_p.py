# LoRA that takes the dropout probability for the probability to keep.
# earns: probability

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        W = base.weight
        self.A = nn.Parameter((torch.rand_like(W[:1].expand(rank, -1)) - 0.5) * 2 / math.sqrt(W.size(1)))
        self.B = nn.Parameter(W.new_zeros(W.size(0), rank))
        self.scale, self.p = scale, dropout

    def forward(self, x):
        inside = x
        if self.training and self.p:
            keep = torch.rand_like(x) < self.p
            inside = x * keep / self.p
        return self.base(x) + self.scale * (inside @ self.A.T) @ self.B.T

    def delta(self):
        return self.scale * self.B @ self.A


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        table = self.base.weight + self.delta()
        return table[tokens]

    def delta(self):
        return (self.scale * self.B @ self.A).T


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)

    def groups(self, model, lr):
        t = trainable(model).items()
        return [
            {"params": [p for n, p in t if not n.endswith("B")], "lr": lr},
            {"params": [p for n, p in t if n.endswith("B")], "lr": lr * self.lr_ratio},
        ]
