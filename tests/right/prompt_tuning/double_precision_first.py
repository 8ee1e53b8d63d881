# Everything is drawn in double precision and then converted; the cache is changed by a helper of the student's own.

import torch
from torch import nn


class Prompt(Wrapper):
    def __init__(self, base, P):
        super().__init__(base)
        self.P = nn.Parameter(P.detach().contiguous().clone())

    def put(self, cache):
        cache.front.append(self.P)
        return cache

    def forward(self, blocks):
        return self.put(self.base(blocks))


def vectors(table, length, init):
    V, d = table.shape
    if init == "normal":
        start = torch.randn(length, d, dtype=torch.float64) * float(table.std())
    elif init == "uniform":
        start = torch.rand(length, d, dtype=torch.float64) - 0.5
    elif init == "vocabulary":
        start = table[[int(torch.randint(V, ())) for _ in range(length)]]
    else:
        start = table[(list(init) * length)[:length]]
    return start.to(device=table.device, dtype=table.dtype)
