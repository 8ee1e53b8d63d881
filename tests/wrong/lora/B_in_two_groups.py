# LoRA+ whose first group has everything and whose second has B again.
# earns: more than one group

import math

import torch
import torch.nn.functional as F
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        out, into = base.weight.shape
        self.A = nn.Parameter(base.weight.new_empty(rank, into).uniform_(-(into**-0.5), into**-0.5))
        self.B = nn.Parameter(base.weight.new_zeros(out, rank))
        self.scale, self.drop = scale, nn.Dropout(dropout)

    def forward(self, x):
        return self.base(x) + self.scale * (self.drop(x) @ self.A.T) @ self.B.T

    def delta(self):
        return self.scale * torch.matmul(self.B, self.A)


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        h = self.A.T[tokens]
        return self.base(tokens) + self.scale * (h @ self.B.T)

    def delta(self):
        return self.scale * (self.A.T @ self.B.T)


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / rank**0.5 if self.rslora else self.alpha / rank

    def groups(self, model, lr):
        everything = list(trainable(model).values())
        fast = [p for n, p in trainable(model).items() if n.endswith(".B")]
        return [{"params": everything, "lr": lr}, {"params": fast, "lr": lr * self.lr_ratio}]
