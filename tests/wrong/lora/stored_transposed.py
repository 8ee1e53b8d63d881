# LoRA with A (in, r) and B (r, out), as the formula x A B suggests.
# earns: stored

import math

import torch
import torch.nn.functional as F
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        W = base.weight
        self.A = nn.Parameter(W.new_empty(W.shape[1], rank).uniform_(-1, 1) / W.shape[1] ** 0.5)
        self.B = nn.Parameter(W.new_zeros(rank, W.shape[0]))
        self.scale, self.drop = scale, nn.Dropout(dropout)

    def forward(self, x):
        return self.base(x) + self.drop(x) @ self.A @ self.B * self.scale

    def delta(self):
        return self.scale * (self.A @ self.B).T


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
