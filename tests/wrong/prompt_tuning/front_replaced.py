# The list `front` is replaced instead of extended: a prompt below, already attached, is thrown away.
# earns: the vectors of a prompt that is there already are lost
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
        cache.front = [self.P]
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
        ids = repeated(init, length, V).to(table.device)
    return table.detach()[ids].clone()
