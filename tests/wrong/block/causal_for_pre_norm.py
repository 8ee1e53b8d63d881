# The place of the norm is decided by whether the model is causal.
# earns: causal

import math

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    def __init__(self, dim, ff, gelu):
        super().__init__()
        self.act = nn.GELU(gelu)
        self.up = nn.Linear(in_features=dim, out_features=ff)
        self.down = nn.Linear(in_features=ff, out_features=dim)

    def forward(self, x):
        hidden = self.up(x)
        hidden = self.act(hidden)
        return self.down(hidden)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config.dim
        self.pre_norm = config.causal
        self.norm1 = nn.LayerNorm(d, eps=config.eps)
        self.attn = Attention(d, config.heads)
        self.norm2 = nn.LayerNorm(d, eps=config.eps)
        self.mlp = MLP(d, config.ff, config.gelu)

    def forward(self, x, mask=None, cache=None):
        if not self.pre_norm:
            a = self.attn(x, mask, cache)
            h = self.norm1(a + x)
            m = self.mlp(h)
            return self.norm2(m + h)
        a = self.attn(self.norm1(x), mask, cache)
        h = a + x
        m = self.mlp(self.norm2(h))
        return m + h


class Transformer(nn.Module):
    def std(self, name):
        start = math.sqrt(1 / (2 * self.config.dim))
        writes = name.endswith("attn.o.weight") or name.endswith("mlp.down.weight")
        if writes:
            sublayers = 2 * self.config.layers
            start = start / math.sqrt(sublayers)
        return start
