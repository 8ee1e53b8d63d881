# Prompt tuning whose uniform start lies in ±1/4: the random number between 0 and 1 is halved and then centred.
# earns: the uniform start has other bounds than

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
    d = table.shape[1]
    if init == "uniform":
        return torch.rand(length, d, dtype=table.dtype) / 2 - 0.25
    if init == "normal":
        return torch.randn(length, d, dtype=table.dtype).mul(table.std())
    if init == "vocabulary":
        init = tuple(torch.randint(len(table), (length,)).tolist())
    return table[repeated(init, length, len(table))].clone()
