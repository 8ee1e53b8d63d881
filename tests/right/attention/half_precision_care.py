# The softmax in float32 or better and cast back, everything masked after the fact with additive numbers.

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
    scale = 1 / math.sqrt(q.size(-1))
    logits = torch.matmul(q * scale, k.transpose(-2, -1))
    if isinstance(mask, str):
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if mask is not None:
        bias = torch.zeros_like(logits).masked_fill(~mask, float("-inf"))
        logits = logits + bias
    kind = torch.promote_types(logits.dtype, torch.float32)
    weights = logits.softmax(-1, dtype=kind).to(v.dtype)
    return weights @ v, weights


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
