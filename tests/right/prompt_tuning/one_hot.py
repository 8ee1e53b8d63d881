# The words are picked by a product with one-hot rows; the prompt is a batch of one.

import torch
import torch.nn.functional as F
from torch import nn


class Prompt(Wrapper):
    def __init__(self, base, P):
        super().__init__(base)
        self.P = nn.Parameter(torch.empty_like(P))
        self.P.data.copy_(P)

    def forward(self, blocks):
        cache = self.base(blocks)
        cache.front.extend([self.P.unsqueeze(0)])
        return cache


def vectors(table, length, init):
    size, width = table.shape
    if isinstance(init, str) and init != "vocabulary":
        P = torch.zeros(length, width).type_as(table)
        if init == "uniform":
            nn.init.uniform_(P, a=-0.5, b=0.5)
        else:
            nn.init.normal_(P, mean=0.0, std=table.std().item())
        return P
    if init == "vocabulary":
        ids = torch.multinomial(torch.ones(size), length, replacement=True)
    else:
        ids = torch.tensor(init).repeat(length)[:length]
    return F.one_hot(ids, size).to(table.dtype) @ table.detach()
