# φ by hand with erf or tanh, in a function of its own; the stream as a list of terms.

import math

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    def __init__(self, dim, ff, gelu):
        super().__init__()
        self.up, self.down, self.gelu = nn.Linear(dim, ff), nn.Linear(ff, dim), gelu

    def forward(self, x):
        u = self.up(x)
        if self.gelu == "tanh":
            gate = torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))
        else:
            gate = torch.erf(u / math.sqrt(2))
        return self.down(u * (1 + gate) / 2)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config.dim
        self.pre_norm = config.pre_norm
        self.norm1 = nn.LayerNorm(d, eps=config.eps)
        self.attn = Attention(d, config.heads)
        self.norm2 = nn.LayerNorm(d, eps=config.eps)
        self.mlp = MLP(d, config.ff, config.gelu)

    def forward(self, x, mask=None, cache=None):
        def attention(h):
            return self.attn(h, mask, cache)

        for part, norm in ((attention, self.norm1), (self.mlp, self.norm2)):
            x = x + part(norm(x)) if self.pre_norm else norm(x + part(x))
        return x


class Transformer(nn.Module):
    def std(self, name):
        c = self.config
        variance = 1 / (2 * c.dim)
        if any(name.endswith(last) for last in (".o.weight", ".down.weight")):
            variance /= 2 * c.layers
        return variance**0.5
