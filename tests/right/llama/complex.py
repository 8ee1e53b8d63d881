# Each half of a head is a part of complex numbers; one head of keys at a time is read by its queries.

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.transformer import Attention, attend


def rotate(x, positions, base):
    c = x.shape[-1] // 2
    z = torch.complex(x[..., :c].to(torch.float64), x[..., c:].to(torch.float64))
    i = torch.arange(c, dtype=torch.float64, device=x.device)
    turn = torch.exp(1j * positions.unsqueeze(-1) * base ** (-2 * i / (2 * c)))
    z = z * turn
    return torch.cat((z.real, z.imag), -1).to(x.dtype)


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
        where = key_positions(mask, x.shape[1], k.shape[2], x.device)
        q = rotate(q, where[..., k.shape[2] - x.shape[1] :], self.rope_base)
        k = rotate(k, where, self.rope_base)
        share = self.heads // self.kv_heads
        outputs, maps = [], []
        for h in range(self.heads):
            g = slice(h // share, h // share + 1)
            y, w = attend(q[:, h : h + 1], k[:, g], v[:, g], mask)
            outputs.append(y)
            maps.append(w)
        if self.recording:
            self.weights = torch.cat(maps, 1).detach()
        y = torch.cat(outputs, 1)
        return self.o(y.permute(0, 2, 1, 3).flatten(2))


class GatedMLP(nn.Module):
    def forward(self, x):
        gated = F.silu(self.gate(x))
        gated = gated * self.up(x)
        return self.down(gated)
