# Prompt tuning whose normal start has lost its sign: the absolute value of every number.
# earns: the normal start has lost its signs

import torch
from torch import nn


class Prompt(Wrapper):
    def __init__(self, base, P):
        super().__init__(base)
        self.P = nn.Parameter(P)

    def forward(self, blocks):
        cache = self.base(blocks)
        cache.front.append(self.P)
        return cache


def vectors(table, length, init):
    V, d = table.shape
    if init == "normal":
        return torch.randn(length, d).to(table.dtype).abs() * table.std()
    if init == "uniform":
        return (torch.rand(length, d) - 0.5).to(table.dtype)
    words = torch.randint(V, (length,)) if init == "vocabulary" else repeated(init, length, V)
    return table[words].clone()
