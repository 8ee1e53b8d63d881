# The words of init are repeated each for itself (7 7 3 3) instead of over and over (7 3 7 3).
# earns: equal words stand side by side
import torch
from torch import nn

from minipeft.attach import Method, Wrapper
from minipeft.targets import repeated, stacks, table, wrap


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
        scale = table.std().item()
        return torch.randn(length, d, dtype=table.dtype, device=table.device) * scale
    if init == "uniform":
        return torch.rand(length, d, dtype=table.dtype, device=table.device) - 0.5
    if init == "vocabulary":
        ids = torch.randint(0, V, (length,), device=table.device)
    else:
        repeated(init, length, V)  # raises for a word that is no token
        words = torch.tensor(init, device=table.device)
        ids = words.repeat_interleave(-(-length // len(words)))[:length]
    return table.detach()[ids].clone()
