# The softmax through logsumexp, the scale put into both factors, a baddbmm, heads by einops-like reshape.

import math

import torch
import torch.nn.functional as F
from torch import nn


def attention_mask(T, S, causal, mask=None, device=None):
    past = S - T
    if mask is None:
        if not causal:
            return None
        if past == 0:
            return "causal"
        tri = torch.tril(torch.ones(T, T, dtype=torch.bool, device=device))
        return torch.cat([torch.ones(T, past, dtype=torch.bool, device=device), tri], dim=1)[None, None]
    real = mask.bool().unsqueeze(1).expand(-1, T, -1)
    if causal:
        real = real & torch.ones(T, S, dtype=torch.bool, device=mask.device).tril(past)
    real = real.clone()
    for t in range(T):
        real[:, t, past + t] = True
    return real.unsqueeze(1)


def attend(q, k, v, mask=None):
    root = q.shape[-1] ** 0.25
    energy = (q / root) @ (k / root).mT
    if mask is not None:
        if isinstance(mask, str):
            here = torch.arange(energy.shape[-1], device=q.device)
            mask = here[None] <= here[: energy.shape[-2], None]
        energy = energy.masked_fill(mask == False, torch.finfo(energy.dtype).min)  # noqa: E712
    weights = torch.exp(energy - torch.logsumexp(energy, dim=-1, keepdim=True))
    return (weights.unsqueeze(-1) * v.unsqueeze(-3)).sum(-2), weights


class Attention(nn.Module):
    def split(self, x):
        size = x.shape[-1] // self.heads
        return torch.stack(x.split(size, dim=-1), dim=-3)

    def forward(self, x, mask=None, cache=None):
        parts = []
        for layer in (self.q, self.k, self.v):
            parts.append(self.split(F.linear(x, layer.weight, layer.bias)))
        q, k, v = parts
        (k, v) = (k, v) if cache is None else cache.extend(k, v)
        y, seen = attend(q, k, v, mask)
        self.weights = seen.clone().detach() if self.recording else self.weights
        columns = self.o.weight.split(y.shape[-1], dim=1)  # each head writes through columns of its own
        return sum(F.linear(y[:, h], columns[h]) for h in range(self.heads)) + self.o.bias
