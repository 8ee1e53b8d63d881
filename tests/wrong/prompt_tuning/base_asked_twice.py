# Prompt tuning whose P goes into one cache, while the base is asked again for the cache that is returned.
# earns: the cache that is returned is not the one that P was put into

import torch
from torch import nn


class Prompt(Wrapper):
    def __init__(self, base, P):
        super().__init__(base)
        self.P = nn.Parameter(P.clone())

    def forward(self, blocks):
        self.base(blocks).front.append(self.P)
        return self.base(blocks)


def vectors(table, length, init):
    dim = table.size(1)
    match init:
        case "normal":
            P = torch.randn(length, dim, dtype=table.dtype) * table.std()
        case "uniform":
            P = torch.rand(length, dim, dtype=table.dtype) - 0.5
        case "vocabulary":
            P = table[torch.randperm(len(table))[:length]]
        case words:
            P = torch.stack([table[words[i % len(words)]] for i in range(length)])
    return P.clone()
