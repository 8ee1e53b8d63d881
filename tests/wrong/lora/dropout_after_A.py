# LoRA with the dropout between A and B.
# earns: dropout acts between A and B

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        W = base.weight
        self.A = nn.Parameter(nn.init.kaiming_uniform_(W.new_empty(rank, W.shape[1]), a=math.sqrt(5)))
        self.B = nn.Parameter(W.new_zeros(W.shape[0], rank))
        self.scale = scale
        self.path = nn.Dropout(dropout)

    def forward(self, x):
        down = x @ self.A.T
        up = self.path(down) @ self.B.T
        return self.base(x) + self.scale * up

    def delta(self):
        return self.scale * sum(torch.outer(b, a) for b, a in zip(self.B.T, self.A))


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        down = self.A.T[tokens]
        return self.base(tokens) + self.scale * (down @ self.B.T)

    def delta(self):
        return self.scale * sum(torch.outer(a, b) for b, a in zip(self.B.T, self.A))


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / (math.sqrt(rank) if self.rslora else float(rank))

    def groups(self, model, lr):
        b = {n: p for n, p in trainable(model).items() if n.endswith(".B")}
        a = {n: p for n, p in trainable(model).items() if n not in b}
        return [{"params": list(a.values()), "lr": lr}, {"params": list(b.values()), "lr": self.lr_ratio * lr}]
