# A right solution in other words.
import math

import torch
import torch.nn.functional as F
from torch import nn


LAST = {"attn.o.weight", "mlp.down.weight"}


def layer_norm(c):
    return nn.LayerNorm((c.dim,), c.eps)


class MLP(nn.Module):
    def __init__(self, dim, ff, gelu):
        super().__init__()
        self.act = nn.GELU(approximate=gelu)
        self.down = nn.Linear(ff, dim)
        self.up = nn.Linear(dim, ff)

    def forward(self, x):
        for layer in (self.up, self.act, self.down):
            x = layer(x)
        return x


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.pre_norm = bool(config.pre_norm)
        self.norm1 = layer_norm(config)
        self.attn = Attention(config.dim, config.heads)
        self.norm2 = layer_norm(config)
        self.mlp = MLP(config.dim, config.ff, config.gelu)

    def forward(self, x, mask=None, cache=None):
        def attention(z):
            return self.attn(z, mask=mask, cache=cache)

        for sublayer, norm in ((attention, self.norm1), (self.mlp, self.norm2)):
            x = x.add(sublayer(norm(x))) if self.pre_norm else norm(x.add(sublayer(x)))
        return x


class Transformer(nn.Module):
    def std(self, name):
        variance = 1 / (2 * self.config.dim)
        if ".".join(name.split(".")[-3:]) in LAST:
            variance = variance / (2 * self.config.layers)
        return math.sqrt(variance)
