# The weight of the first layer is transposed once.
# earns: computed of the weights in the first pass and kept for all others

import torch
from torch import nn


class MLP(nn.Module):
    def __init__(self, dim, ff, gelu):
        super().__init__()
        self.up = nn.Linear(dim, ff)
        self.down = nn.Linear(ff, dim)
        self.act = nn.GELU(approximate=gelu)

    def forward(self, x):
        if not hasattr(self, "W"):
            self.W = self.up.weight.T * 1.0
        wide = x @ self.W + self.up.bias
        return self.down(self.act(wide))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config
        self.attn = Attention(c.dim, c.heads)
        self.mlp = MLP(c.dim, c.ff, c.gelu)
        self.norm1 = nn.LayerNorm(c.dim, eps=c.eps)
        self.norm2 = nn.LayerNorm(c.dim, eps=c.eps)
        self.pre_norm = c.pre_norm

    def forward(self, x, mask=None, cache=None):
        if self.pre_norm:
            h = x + self.attn(self.norm1(x), mask, cache)
            return h + self.mlp(self.norm2(h))
        h = self.norm1(x + self.attn(x, mask, cache))
        return self.norm2(h + self.mlp(h))
