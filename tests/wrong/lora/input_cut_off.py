# LoRA that detaches x before A "because the base is frozen": the layers below learn through W alone.
# earns: the layer below

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        W = base.weight
        self.A = nn.Parameter(W.new_empty(rank, W.shape[1]))
        self.B = nn.Parameter(W.new_zeros(W.shape[0], rank))
        nn.init.uniform_(self.A, a=-1 / math.sqrt(W.shape[1]), b=1 / math.sqrt(W.shape[1]))
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def forward(self, x):
        adapter = self.dropout(x.detach()) @ (self.scale * self.B @ self.A).T
        return self.base(x) + adapter

    def delta(self):
        return self.scale * self.B @ self.A


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        return self.base(tokens) + F.linear(F.embedding(tokens, self.A.T), self.B) * self.scale

    def delta(self):
        return self.A.T @ self.B.T * self.scale


class LoRA(Method):
    def scale(self, rank):
        denominator = math.sqrt(rank) if self.rslora else rank
        return self.alpha / denominator

    def groups(self, model, lr):
        slow, fast = {"params": [], "lr": lr}, {"params": [], "lr": lr * self.lr_ratio}
        for name, p in trainable(model).items():
            target = fast if name.endswith(".B") else slow
            target["params"].append(p)
        return [slow, fast]
