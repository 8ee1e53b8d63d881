# Prompt tuning that indexes the table with the tuple itself: (7, 3) is row 7, column 3, a single number.
# earns: a tuple of tokens is used as an index

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
        return torch.randn(length, d).to(table.dtype) * table.std()
    if init == "uniform":
        return (torch.rand(length, d) - 0.5).to(table.dtype)
    if init == "vocabulary":
        return table[torch.randint(V, (length,))].clone()
    times = -(-length // len(init))
    return table[init * times][:length].clone()
