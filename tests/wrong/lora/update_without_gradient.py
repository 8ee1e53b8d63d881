# LoRA that takes the numbers of its factors out of autograd with .data, so nothing is ever learned.
# earns: cut off from the gradient

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        out, inn = base.out_features, base.in_features
        self.A = nn.Parameter((torch.rand(rank, inn).to(base.weight) * 2 - 1) / inn**0.5)
        self.B = nn.Parameter(torch.zeros(out, rank).to(base.weight))
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def forward(self, x):
        frozen = self.base(x)
        factor_A, factor_B = self.A.data, self.B.data
        return frozen + self.scale * ((self.dropout(x) @ factor_A.T) @ factor_B.T)

    def delta(self):
        return self.scale * torch.mm(self.B, self.A)


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        return self.base(tokens) + self.scale * torch.matmul(self.A.T[tokens], self.B.T)

    def delta(self):
        return self.scale * torch.mm(self.B, self.A).T


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / (rank if not self.rslora else rank**0.5)

    def groups(self, model, lr):
        t = trainable(model)
        return [
            {"params": [t[k] for k in t if not k.endswith(".B")], "lr": lr},
            {"params": [t[k] for k in t if k.endswith(".B")], "lr": lr * self.lr_ratio},
        ]
