# LoRA that sets a seed inside __init__ "for reproducibility": all layers start with the same A.
# earns: seed

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        torch.manual_seed(42)
        W = base.weight
        k = 1.0 / W.shape[1] ** 0.5
        self.A = nn.Parameter(torch.zeros_like(W[:1]).repeat(rank, 1).uniform_(-k, k))
        self.B = nn.Parameter(torch.zeros_like(W[:, :1]).repeat(1, rank))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.base(x) + self.scale * nn.functional.linear(
            nn.functional.linear(self.dropout(x), self.A), self.B
        )

    def delta(self):
        return torch.matmul(self.B, self.A).mul(self.scale)


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        return self.base(tokens) + self.delta()[tokens]

    def delta(self):
        return torch.matmul(self.B, self.A).mul(self.scale).t()


class LoRA(Method):
    def scale(self, rank):
        return {False: self.alpha / rank, True: self.alpha / rank**0.5}[bool(self.rslora)]

    def groups(self, model, lr):
        groups = []
        for name, p in trainable(model).items():
            groups.append({"params": [p], "lr": lr * (self.lr_ratio if name.endswith(".B") else 1)})
        return groups
