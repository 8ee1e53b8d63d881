# A matrix (c, c) for each position; the kernel knows of groups by itself.

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.transformer import Attention, attend


def rotate(x, positions, base):
    half = x.shape[-1] // 2
    angle = positions[..., None] * torch.pow(base, -torch.arange(half, device=x.device) / half)
    C, S = torch.diag_embed(angle.cos()), torch.diag_embed(angle.sin())
    R = torch.cat([torch.cat([C, -S], -1), torch.cat([S, C], -1)], -2).to(x)
    return (R @ x[..., None])[..., 0]


def key_positions(mask, T, S, device=None):
    if not torch.is_tensor(mask):
        return torch.arange(S, device=device).expand(1, 1, S)
    last = mask.select(2, T - 1).int()
    return (last.cumsum(2) - 1).clamp_min(0)


class RotaryAttention(Attention):
    def forward(self, x, mask=None, cache=None):
        B, T, _ = x.shape
        q = self.q(x).view(B, T, self.heads, self.size).transpose(1, 2)
        k = self.k(x).view(B, T, self.kv_heads, self.size).transpose(1, 2)
        v = self.v(x).view(B, T, self.kv_heads, self.size).transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(k, v)
        S = k.size(2)
        positions = key_positions(mask, T, S, x.device)
        q = rotate(q, positions[:, :, S - T :], self.rope_base)
        k = rotate(k, positions, self.rope_base)
        times = self.heads // self.kv_heads
        if self.recording:
            k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
            out, weights = attend(q, k, v, mask)
            self.weights = weights.detach()
        elif isinstance(mask, str):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.o(out.transpose(1, 2).reshape(B, T, -1))


class GatedMLP(nn.Module):
    def forward(self, x):
        z = self.gate(x)
        return self.down(z / (1 + torch.exp(-z)) * self.up(x))
