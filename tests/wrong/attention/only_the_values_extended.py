# Only the values are taken from the cache, in a layer that uses the fused kernel.
# earns: only one of keys and values

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
    if isinstance(mask, str):
        T = q.shape[2]
        mask = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
    scores = torch.einsum("bhqc,bhkc->bhqk", q, k) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not(), float("-inf"))
    weights = torch.softmax(scores, -1)
    return torch.einsum("bhqk,bhkc->bhqc", weights, v), weights


class Attention(nn.Module):
    def split(self, x):
        size = x.shape[-1] // self.heads
        return torch.stack(x.split(size, dim=-1), dim=-3)

    def forward(self, x, mask=None, cache=None):
        queries, keys, values = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        if cache is not None:
            values = cache.extend(keys, values)[1]
        if not self.recording:
            causal = isinstance(mask, str)
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=None if causal else mask, is_causal=causal
            )
        else:
            mixed, seen = attend(queries, keys, values, mask)
            self.weights = seen.detach()
        return self.o(torch.cat(mixed.unbind(1), dim=-1))
