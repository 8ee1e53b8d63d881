# All rows get the positions of the first.
# earns: all rows get the positions of the first one

import math
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.transformer import Attention, attend


def key_positions(mask, T, S, device=None):
    if mask is None or isinstance(mask, str):
        return torch.arange(S, device=device)[None, None, :]
    visible = mask[:1].select(2, T - 1)
    return torch.cumsum(visible.int(), 2) - 1


def rotate(x, positions, base):
    c = x.size(-1)
    i = torch.arange(c // 2, device=x.device, dtype=torch.float64)
    theta = torch.exp(-i * 2.0 / c * math.log(base))
    angle = positions.double().unsqueeze(-1) * theta
    cos, sin = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
    left, right = x[..., : c // 2], x[..., c // 2 :]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


class RotaryAttention(Attention):
    def forward(self, x, mask=None, cache=None):
        b, T, d = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)
        q = q.view(b, T, self.heads, self.size).permute(0, 2, 1, 3)
        k = k.view(b, T, self.kv_heads, self.size).permute(0, 2, 1, 3)
        v = v.view(b, T, self.kv_heads, self.size).permute(0, 2, 1, 3)
        if cache is not None:
            k, v = cache.extend(k, v)
        S = k.size(2)
        where = key_positions(mask, T, S, x.device)
        q = rotate(q, where[..., S - T :], self.rope_base)
        k = rotate(k, where, self.rope_base)
        group = self.heads // self.kv_heads
        k = torch.stack([k] * group, 2).flatten(1, 2)
        v = torch.stack([v] * group, 2).flatten(1, 2)
        out, weights = attend(q, k, v, mask)
        if self.recording:
            self.weights = weights.detach()
        return self.o(out.permute(0, 2, 1, 3).reshape(b, T, d))


class GatedMLP(nn.Module):
    def forward(self, x):
        a, b = self.gate(x), self.up(x)
        return self.down(a * torch.sigmoid(a) * b)
