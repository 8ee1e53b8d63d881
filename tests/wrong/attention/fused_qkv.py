# The three projections are joined in the first pass.
# earns: computed of the weights in the first pass and kept for all others

import math
import torch
import torch.nn.functional as F
from torch import nn


def attention_mask(queries, keys, causal, mask=None, device=None):
    if causal and mask is None and queries == keys:
        return "causal"
    if mask is None and (not causal or queries == 1):
        return None
    see = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device)
    if causal:
        see = see.tril(keys - queries)
    if mask is not None:
        eye = torch.eye(queries, keys, device=mask.device).bool()
        eye = torch.zeros(queries, keys, dtype=torch.bool, device=mask.device)
        i = torch.arange(queries)
        eye[i, i + keys - queries] = True
        see = (see & mask[:, None, None, :]) | eye
    return see


def attend(q, k, v, mask=None):
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.shape[-1])
    if isinstance(mask, str):
        T, S = scores.shape[-2:]
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not(), -math.inf)
    weights = torch.softmax(scores, -1)
    return torch.einsum("bhts,bhsd->bhtd", weights, v), weights


class Attention(nn.Module):
    def split(self, x):
        return x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).movedim(-2, -3)

    def forward(self, x, mask=None, cache=None):
        if not hasattr(self, "joined"):
            self.joined = [torch.cat([getattr(p, n) for p in (self.q, self.k, self.v)]) for n in ("weight", "bias")]
        q, k, v = F.linear(x, *self.joined).chunk(3, -1)
        q, k, v = self.split(q), self.split(k), self.split(v)
        if cache is not None:
            k, v = cache.extend(k, v)
        y, weights = attend(q, k, v, mask)
        if self.recording:
            self.weights = weights.detach()
        return self.o(y.movedim(1, 2).flatten(2))
