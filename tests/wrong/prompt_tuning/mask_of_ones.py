# Prompt tuning that also writes ones for the prompt into the cache's mask, where there is none.
# earns: Besides the vectors in front, the cache should be as it was: no keys, no mask, no offset.

import torch
from torch import nn


class Prompt(Wrapper):
    def __init__(self, base, P):
        super().__init__(base)
        self.P = nn.Parameter(P)

    def forward(self, blocks):
        cache = self.base(blocks)
        cache.front.append(self.P)
        ones = torch.ones(1, len(self.P), dtype=torch.bool)
        cache.mask = ones if cache.mask is None else torch.cat([cache.mask, ones], dim=1)
        return cache


def vectors(table, length, init):
    V, d = table.shape
    if init == "normal":
        return torch.randn(length, d).to(table.dtype) * table.std()
    if init == "uniform":
        return (torch.rand(length, d) - 0.5).to(table.dtype)
    words = torch.randint(V, (length,)) if init == "vocabulary" else repeated(init, length, V)
    return torch.nn.functional.embedding(words, table)
