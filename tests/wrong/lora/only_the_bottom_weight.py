# LoRA that goes through to the plain Linear at the bottom: a method below it is passed by.
# earns: stacked on another method

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        W = bottom(base).weight
        self.scale, self.dropout = scale, nn.Dropout(dropout)
        self.A = nn.Parameter(W.new_empty(rank, W.shape[1]).uniform_(-1, 1) / W.shape[1] ** 0.5)
        self.B = nn.Parameter(W.new_zeros(W.shape[0], rank))

    def forward(self, x):
        linear = bottom(self.base)
        plain = torch.nn.functional.linear(x, linear.weight, linear.bias)
        return plain + self.scale * (self.dropout(x) @ self.A.T @ self.B.T)

    def delta(self):
        return self.scale * (self.B @ self.A)


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        return self.base(tokens) + self.scale * (self.A.T[tokens] @ self.B.T)

    def delta(self):
        return self.scale * (self.A.T @ self.B.T)


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / (rank**0.5 if self.rslora else rank)

    def groups(self, model, lr):
        return [{"params": [p], "lr": lr * self.lr_ratio**n.endswith(".B")} for n, p in trainable(model).items()]
