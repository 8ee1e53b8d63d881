# A key counts as real if any token sees it; but padding sees itself.
# earns: and padding sees itself

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.transformer import Attention, attend


def rotate(x, positions, base):
    """The way of most libraries: tables of cosines and sines, and half of the head turned round."""
    dim = x.size(-1)
    inv_freq = 1.0 / base ** (torch.arange(0, dim, 2, device=x.device).float() / dim)
    freqs = positions.unsqueeze(-1).float() * inv_freq
    emb = torch.cat((freqs, freqs), dim=-1)
    cos, sin = emb.cos().to(x.dtype), emb.sin().to(x.dtype)
    x1, x2 = x[..., : dim // 2], x[..., dim // 2 :]
    return x * cos + torch.cat((-x2, x1), dim=-1) * sin


def key_positions(mask, T, S, device=None):
    if mask is None or isinstance(mask, str):
        return torch.arange(S, device=device).view(1, 1, S)
    real = mask.any(dim=2).to(torch.long)
    return real.cumsum(dim=-1) - real


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
        k = k[:, :, None].expand(B, self.kv_heads, times, S, self.size).reshape(B, self.heads, S, self.size)
        v = v[:, :, None].expand(B, self.kv_heads, times, S, self.size).reshape(B, self.heads, S, self.size)
        out, weights = attend(q, k, v, mask)
        if self.recording:
            self.weights = weights.detach()
        return self.o(out.transpose(1, 2).reshape(B, T, -1))


class GatedMLP(nn.Module):
    def forward(self, x):
        gated = F.silu(self.gate(x))
        gated = gated * self.up(x)
        return self.down(gated)
