# LoRA+ the wrong way: A gets lr/ratio and B gets lr, instead of A lr and B lr*ratio; the ratio is right, the level is not.
# earns: the learning rate of A is divided by lr_ratio
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, WeightWrapper, bottom, trainable


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        n_out, n_in = base.weight.shape
        bound = 1 / math.sqrt(n_in)
        self.A = nn.Parameter(base.weight.new_empty((rank, n_in)).uniform_(-bound, bound))
        self.B = nn.Parameter(base.weight.new_zeros((n_out, rank)))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        frozen_out = self.base(x)
        low = self.dropout(x) @ self.A.T
        return frozen_out + self.scale * (low @ self.B.T)

    def delta(self):
        return self.scale * (self.B @ self.A)


class LoRA(Method):
    def scale(self, rank):
        if self.rslora:
            return self.alpha / math.sqrt(rank)
        return self.alpha / rank

    def groups(self, model, lr):
        slow, fast = [], []
        for name, p in trainable(model).items():
            (fast if name.split(".")[-1] == "B" else slow).append(p)
        return [{"params": slow, "lr": lr / self.lr_ratio}, {"params": fast, "lr": lr}]


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        low = F.embedding(tokens, self.A.t(), padding_idx=self.padding_idx)
        return self.base(tokens) + self.scale * (low @ self.B.t())

    def delta(self):
        return self.scale * (self.A.t() @ self.B.t())
