# The uniform start is made with torch's default type and device, not those of the base: float32 parameters in a float64 or bfloat16 model.
# earns: got float32
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
        return torch.empty(length, d).uniform_(-0.5, 0.5)
    if init == "vocabulary":
        ids = torch.randint(0, V, (length,), device=table.device)
    else:
        ids = repeated(init, length, V).to(table.device)
    return table.detach()[ids].clone()
