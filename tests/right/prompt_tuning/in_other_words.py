# A right solution in other words.
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Wrapper
from minipeft.targets import repeated

HALF = 0.5


class Prompt(Wrapper):
    def __init__(self, base, P):
        Wrapper.__init__(self, base)
        self.register_parameter("P", nn.Parameter(P, requires_grad=True))

    def forward(self, blocks):
        memory = self.base(blocks)
        memory.front = [*memory.front, self.P]
        return memory


def normal(table, n):
    spread = table.detach().std().item()
    return torch.normal(0.0, spread, (n, table.shape[1])).to(table)


def uniform(table, n):
    P = torch.empty_like(table[:1].detach().repeat(n, 1))
    return nn.init.uniform_(P, -HALF, HALF)


def words(table, tokens):
    return F.embedding(tokens.to(table.device), table.detach())


def vectors(table, length, init):
    if isinstance(init, tuple):
        return words(table, repeated(init, length, len(table)))
    if init == "vocabulary":
        return words(table, torch.multinomial(torch.ones(len(table)), length, replacement=True))
    return {"normal": normal, "uniform": uniform}[init](table, length)
