# A right solution in other words.
import math

import torch
import torch.nn.functional as F
from torch import nn


NEVER = float("-inf")


def attention_mask(T, S, causal, mask=None, device=None):
    if mask is None:
        if T == 1 or not causal:
            return None
        if S == T:
            return "causal"
    ago = torch.arange(S - T, S, device=device)[:, None] - torch.arange(S, device=device)[None, :]  # how long ago
    seen = (ago >= 0) if causal else torch.full((T, S), True, device=device)
    if mask is not None:
        seen = torch.einsum("ts,bs->bts", seen.int(), mask.int()).bool()
        seen = torch.where(ago == 0, True, seen)
        return seen.unsqueeze(1)
    return seen.reshape(1, 1, T, S)


def as_bias(mask, scores):
    """The same as numbers to be added: 0 or minus infinity."""
    if isinstance(mask, str):
        return torch.full_like(scores[0, 0], NEVER).triu(1)
    return torch.zeros_like(scores).masked_fill(mask.logical_not(), NEVER)


def attend(q, k, v, mask=None):
    scores = torch.einsum("bhtc,bhsc->bhts", q * q.shape[-1] ** -0.5, k)
    if mask is not None:
        scores = scores + as_bias(mask, scores)
    weights = (scores - scores.logsumexp(-1, keepdim=True)).exp()
    return torch.einsum("bhts,bhsc->bhtc", weights, v), weights


class Attention(nn.Module):
    def split(self, x):
        return torch.stack(x.chunk(self.heads, dim=-1), dim=-3)

    def forward(self, x, mask=None, cache=None):
        queries, keys, values = map(self.split, (self.q(x), self.k(x), self.v(x)))
        values = values + 0.0 * (queries + keys).detach()  # NaN in q or k stays NaN
        if cache is not None:
            keys, values = cache.extend(keys, values)
        if self.recording:
            mixed, seen = attend(queries, keys, values, mask)
            self.weights = seen.detach().clone()
        else:
            causal = isinstance(mask, str)
            mixed = F.scaled_dot_product_attention(queries, keys, values, None if causal else mask, is_causal=causal)
        return self.o(torch.cat(mixed.unbind(dim=1), dim=-1))
