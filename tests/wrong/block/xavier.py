# The standard deviation is Xavier's, √(2/(in + out)) of a square weight, 1/√d.
# earns: 1/√d

import math

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    def __init__(self, dim, ff, gelu):
        nn.Module.__init__(self)
        self.up = nn.Linear(dim, ff, bias=True)
        self.down = nn.Linear(ff, dim, bias=True)
        self.approximate = gelu

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class Block(nn.Module):
    def __init__(self, config):
        nn.Module.__init__(self)
        self.attn = Attention(config.dim, config.heads)
        self.mlp = MLP(dim=config.dim, ff=config.ff, gelu=config.gelu)
        for place in (1, 2):
            setattr(self, f"norm{place}", nn.LayerNorm(config.dim, config.eps))
        self.pre_norm = bool(config.pre_norm)

    def forward(self, x, mask=None, cache=None):
        before = (self.norm1, self.norm2) if self.pre_norm else (nn.Identity(), nn.Identity())
        after = (nn.Identity(), nn.Identity()) if self.pre_norm else (self.norm1, self.norm2)
        stream = x
        stream = after[0](stream + self.attn(before[0](stream), mask=mask, cache=cache))
        stream = after[1](stream + self.mlp(before[1](stream)))
        return stream


class Transformer(nn.Module):
    def std(self, name):
        layer, kind = name.split(".")[-2:] if "." in name else (name, "")
        share = 1.0
        if kind == "weight" and layer in ("o", "down"):
            share = (2.0 * self.config.layers) ** -0.5
        return share * self.config.dim**-0.5
