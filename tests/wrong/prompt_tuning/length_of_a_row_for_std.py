# The scale of the normal start is the mean length (norm) of an embedding, which is taken for the deviation of an entry: sqrt(d) times too wide.
# earns: the standard deviation is the length of an embedding
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
        scale = table.norm(dim=1).mean().item()
        return torch.randn(length, d, dtype=table.dtype, device=table.device) * scale
    if init == "uniform":
        return torch.rand(length, d, dtype=table.dtype, device=table.device) - 0.5
    if init == "vocabulary":
        ids = torch.randint(0, V, (length,), device=table.device)
    else:
        ids = repeated(init, length, V).to(table.device)
    return table.detach()[ids].clone()
