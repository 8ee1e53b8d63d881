# Each start in a function of its own, chosen from a dictionary; the words by an index that counts around.

import torch
from torch import nn


def normal(table, length):
    return torch.normal(0.0, table.std().item(), (length, table.shape[1]), dtype=table.dtype, device=table.device)


def uniform(table, length):
    return torch.rand_like(table[:1].expand(length, -1)) - 0.5


def vocabulary(table, length):
    return table[torch.randperm(len(table))[:length]]


def vectors(table, length, init):
    makers = {"normal": normal, "uniform": uniform, "vocabulary": vocabulary}
    if init in makers:
        return makers[init](table, length)
    return torch.stack([table[init[i % len(init)]] for i in range(length)]).detach()


class Prompt(Wrapper):
    def __init__(self, base, P):
        super().__init__(base)
        self.register_parameter("P", nn.Parameter(P.clone()))

    def forward(self, blocks):
        begun = self.base(blocks)
        begun.front = begun.front + [self.P]
        return begun
