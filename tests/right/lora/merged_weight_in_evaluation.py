# In evaluation x meets W + ΔW, made anew in each pass; in training the two paths. The start is drawn by nn.Linear.

import torch
import torch.nn.functional as F
from torch import nn


def low_rank(x, A, B):
    return F.linear(F.linear(x, A), B)


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        out, into = base.weight.shape
        kind = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.A = nn.Linear(into, rank, bias=False, **kind).weight
        self.B = nn.Parameter(torch.zeros((out, rank), **kind))
        self.dropout = nn.Dropout(dropout, inplace=False)
        self.scale = scale

    def forward(self, x):
        if self.training:
            return torch.add(self.base(x), low_rank(self.dropout(x), self.A, self.B), alpha=self.scale)
        return F.linear(x, self.base.weight + self.delta(), self.base.bias)

    def delta(self):
        return low_rank(torch.eye(self.A.shape[1]).to(self.A), self.A, self.B).T * self.scale


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        return F.embedding(tokens, self.base.weight + self.delta())

    def delta(self):
        return low_rank(self.A.T, torch.eye(self.A.shape[0]).to(self.A), self.B).mul(self.scale)


class LoRA(Method):
    def scale(self, rank):
        s = self.alpha / rank
        if self.rslora:
            s *= rank**0.5
        return s

    def groups(self, model, lr):
        ends_in_b = {n for n in trainable(model) if n.endswith(".B")}
        return [
            dict(lr=lr * factor, params=[p for n, p in trainable(model).items() if (n in ends_in_b) is fast])
            for fast, factor in [(True, self.lr_ratio), (False, 1)]
        ]
