# LoRA with dropout on the columns of A, one mask for all rows, as minLoRA has it.
# earns: one mask

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
        A = self.A * self.drop(torch.ones_like(self.A[:1]))
        return self.base(x) + self.scale * (x @ A.T) @ self.B.T

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
        made = {lr: [], lr * self.lr_ratio: []} if self.lr_ratio != 1 else {lr: []}
        for name, p in trainable(model).items():
            made[lr * self.lr_ratio if name.endswith(".B") else lr].append(p)
        return [{"params": ps, "lr": rate} for rate, ps in made.items()]
