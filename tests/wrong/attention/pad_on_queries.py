# The padding mask is laid along the queries (rows) instead of the keys (columns): padding is still read.
# earns: the mask hides queries where it should hide keys
import math

import torch
import torch.nn.functional as F
from torch import nn


def attention_mask(T, S, causal, mask=None, device=None):
    if mask is None:
        if not causal or T == 1:
            return None
        if T == S:
            return "causal"
    key = torch.arange(S, device=device)
    own = torch.arange(S - T, S, device=device).unsqueeze(1)
    allowed = key <= own if causal else torch.ones(T, S, dtype=torch.bool, device=device)
    allowed = allowed.view(1, 1, T, S)
    if mask is None:
        return allowed
    real = mask[:, None, -T:, None].bool()  # (B, 1, T, 1)
    return (allowed & real) | (key == own)


def attend(q, k, v, mask=None):
    logits = torch.matmul(q, k.transpose(-2, -1)) / q.size(-1) ** 0.5
    if isinstance(mask, str):
        n = logits.size(-1)
        mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        logits = logits.masked_fill(mask.logical_not(), float("-inf"))
    weights = torch.softmax(logits, dim=-1)
    return torch.matmul(weights, v), weights


class Attention(nn.Module):
    def split(self, x):
        *lead, T, d = x.shape
        return x.reshape(*lead, T, self.heads, d // self.heads).transpose(-3, -2)

    def forward(self, x, mask=None, cache=None):
        B, T, d = x.shape
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        v = v + 0 * (q.detach() * k.detach())
        if cache is not None:
            k, v = cache.extend(k, v)
        if self.recording:
            y, w = attend(q, k, v, mask)
            self.weights = w.detach()
        elif mask == "causal" if isinstance(mask, str) else False:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o(y.transpose(1, 2).reshape(B, T, d))
