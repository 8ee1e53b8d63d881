# The queries get an axis for their group, and keys are never copied.

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.transformer import Attention


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
    real = mask[:, :, T - 1, :].to(torch.long)
    return real.cumsum(dim=-1) - real


class RotaryAttention(Attention):
    def forward(self, x, mask=None, cache=None):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        if cache is not None:
            k, v = cache.extend(k, v)
        T, S = q.shape[-2], k.shape[-2]
        where = key_positions(mask, T, S, x.device)
        q, k = rotate(q, where[..., -T:], self.rope_base), rotate(k, where, self.rope_base)
        q = q.unflatten(1, (self.kv_heads, -1))
        scores = torch.einsum("bgntc,bgsc->bgnts", q, k) * self.size**-0.5
        if isinstance(mask, str):
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril()[None, None]
        if mask is not None:
            scores = scores.masked_fill(mask.logical_not()[:, :, None], float("-inf"))
        weights = torch.softmax(scores, -1)
        if self.recording:
            self.weights = weights.detach().flatten(1, 2)
        y = torch.einsum("bgnts,bgsc->btgnc", weights, v)
        return self.o(y.flatten(2))


class GatedMLP(nn.Module):
    def forward(self, x):
        gated = F.silu(self.gate(x))
        gated = gated * self.up(x)
        return self.down(gated)
