# Prompt tuning whose normal and uniform starts have PyTorch's default type, whatever the type of the embeddings.
# earns: P is made in PyTorch's default type

import torch
from torch import nn


class Prompt(Wrapper):
    def __init__(self, base, P):
        super().__init__(base)
        self.P = nn.Parameter(P)

    def forward(self, blocks):
        cache = self.base(blocks)
        cache.front = cache.front + [self.P]
        return cache


def vectors(table, length, init):
    if init == "normal":
        return torch.randn(length, table.shape[-1]) * table.std().item()
    if init == "uniform":
        return torch.empty(length, table.shape[-1]).uniform_(-0.5, 0.5)
    ids = torch.randint(len(table), (length,)) if init == "vocabulary" else repeated(init, length, len(table))
    return table.index_select(0, ids)
