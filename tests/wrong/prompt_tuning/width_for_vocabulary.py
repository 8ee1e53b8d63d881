# Prompt tuning whose "vocabulary" draws tokens below d, because the two sizes of the table were taken in the wrong order.
# earns: drawn from a few tokens alone

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
    dim = table.size(-1)
    if init == "vocabulary":
        ids = torch.randint(0, dim, size=(length,))
        return table[ids].clone()
    if init in ("normal", "uniform"):
        P = table.new_zeros(length, dim)
        return nn.init.uniform_(P, -0.5, 0.5) if init == "uniform" else nn.init.normal_(P, 0.0, table.std().item())
    return table[repeated(init, length, len(table))].clone()
