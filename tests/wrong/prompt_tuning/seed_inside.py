# Prompt tuning whose vectors are drawn from a generator with a fixed seed, so that every prompt starts alike.
# earns: a seed is set inside

import torch
from torch import nn


class Prompt(Wrapper):
    def __init__(self, base, P):
        super().__init__(base)
        self.P = nn.Parameter(P.clone().detach())

    def forward(self, blocks):
        start = self.base(blocks)
        start.front += [self.P]
        return start


def vectors(table, length, init):
    g = torch.Generator().manual_seed(42)
    shape = length, table.shape[1]
    if init == "normal":
        return torch.normal(0.0, float(table.std()), shape, generator=g, dtype=table.dtype)
    if init == "uniform":
        return torch.rand(shape, generator=g, dtype=table.dtype) - 0.5
    if init == "vocabulary":
        return table[torch.randint(len(table), (length,), generator=g)].clone()
    return table[repeated(init, length, len(table))].clone()
