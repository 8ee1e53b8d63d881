# Prompt tuning as in the library: the vectors are an nn.Embedding, looked up by 0 ... n-1. No parameter is called P.
# earns: One parameter should be trained, P (n, d), and nothing else.

import torch
from torch import nn


class Prompt(Wrapper):
    def __init__(self, base, P):
        super().__init__(base)
        self.soft = nn.Embedding(len(P), P.shape[1], dtype=P.dtype)
        with torch.no_grad():
            self.soft.weight.copy_(P)

    def forward(self, blocks):
        out = self.base(blocks)
        out.front.append(self.soft(torch.arange(self.soft.num_embeddings)))
        return out


def vectors(table, length, init):
    size = (length, table.shape[1])
    if isinstance(init, tuple):
        return table[[init[i % len(init)] for i in range(length)]].clone()
    if init == "vocabulary":
        return table[torch.randint(0, len(table), (length,))].clone()
    if init == "uniform":
        return torch.empty(size, dtype=table.dtype).uniform_(-0.5, 0.5)
    return torch.empty(size, dtype=table.dtype).normal_(0, table.std().item())
