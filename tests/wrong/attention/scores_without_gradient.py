# The scores are computed under no_grad, so queries and keys never learn.
# earns: no gradient

import math

import torch
import torch.nn.functional as F
from torch import nn


def attention_mask(T, S, causal, mask=None, device=None):
    if not causal and mask is None:
        return None
    keys = torch.arange(S, device=device)
    queries = torch.arange(S - T, S, device=device)
    allowed = torch.ones(T, S, dtype=torch.bool, device=device)
    if causal:
        allowed = keys[None, :] <= queries[:, None]
    allowed = allowed[None, None]
    if mask is not None:
        own = keys[None, :] == queries[:, None]
        allowed = torch.logical_or(torch.logical_and(allowed, mask[:, None, None, :]), own)
    return allowed


def attend(q, k, v, mask=None):
    d_k = q.size(-1)
    with torch.no_grad():
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(d_k)
    if mask == "causal" if isinstance(mask, str) else False:
        n, m = scores.shape[-2:]
        mask = ~torch.triu(torch.ones(n, m, dtype=torch.bool, device=q.device), diagonal=1)
    if mask is not None:
        scores = torch.where(mask, scores, torch.full_like(scores, float("-inf")))
    p = F.softmax(scores, dim=-1)
    return torch.matmul(p, v), p


class Attention(nn.Module):
    def split(self, x):
        *rest, n, d = x.shape
        return x.view(*rest, n, self.heads, d // self.heads).transpose(-2, -3)

    def forward(self, x, mask=None, cache=None):
        B, T, d = x.shape
        q = self.split(self.q(x))
        k = self.split(self.k(x))
        v = self.split(self.v(x))
        if cache is not None:
            k, v = cache.extend(k, v)
        out, w = attend(q, k, v, mask)
        if self.recording:
            self.weights = w.detach()
        out = out.transpose(1, 2).contiguous().view(B, T, d)
        return self.o(out)
