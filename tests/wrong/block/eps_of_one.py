# norm2 is made with PyTorch's own eps and not the one of the config (norm1 is right).
# earns: the norms do not get eps from the Config
import math

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    def __init__(self, dim, ff, gelu):
        super().__init__()
        self.up = nn.Linear(dim, ff)
        self.down = nn.Linear(ff, dim)
        self.act = nn.GELU(gelu)

    def forward(self, x):
        h = self.up(x)
        h = self.act(h)
        return self.down(h)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attn = Attention(config.dim, config.heads)
        self.mlp = MLP(config.dim, config.ff, config.gelu)
        self.norm1 = nn.LayerNorm(config.dim, eps=config.eps)
        self.norm2 = nn.LayerNorm(config.dim)
        self.pre_norm = config.pre_norm

    def forward(self, x, mask=None, cache=None):
        if self.pre_norm:
            x = x + self.attn(self.norm1(x), mask, cache)
            x = x + self.mlp(self.norm2(x))
            return x
        x = self.norm1(x + self.attn(x, mask, cache))
        x = self.norm2(x + self.mlp(x))
        return x


class Transformer(nn.Module):
    def std(self, name):
        c = self.config
        std = 1 / math.sqrt(2 * c.dim)
        if name.endswith("attn.o.weight") or name.endswith("mlp.down.weight"):
            std /= math.sqrt(2 * c.layers)
        return std
