# Constants and short names at module level, einops if it is there.
import math

import torch
from torch import Tensor

try:
    from einops import rearrange
except ImportError:

    def rearrange(x, pattern, h):
        return x.reshape(*x.shape[:-1], h, x.shape[-1] // h).transpose(-3, -2)


NEG_INF = float("-inf")
SQRT = math.sqrt
softmax = lambda scores, dim=-1: torch.softmax(scores, dim)
EPS = torch.finfo(torch.float32).eps
Matrix = torch.Tensor
BOOL = torch.bool
TRIANGLE = "causal"


def attention_mask(T: int, S: int, causal: bool, mask: Tensor = None, device=None):
    if mask is None:
        if T == 1 or not causal:
            return None
        if T == S:
            return TRIANGLE
    query = torch.arange(S - T, S, device=device)[:, None]
    key = torch.arange(S, device=device)[None, :]
    seen = key <= query if causal else torch.ones(T, S, dtype=BOOL, device=device)
    if mask is None:
        return seen[None, None]
    return (seen[None, None] & mask[:, None, None, :]) | (key == query)


def attend(q, k, v, mask=None) -> tuple[Matrix, Matrix]:
    scores = torch.einsum("bhtc,bhsc->bhts", q, k) / SQRT(q.size(-1))
    if isinstance(mask, str) and mask == TRIANGLE:
        T, S = scores.shape[-2:]
        mask = torch.arange(T, device=q.device)[:, None] >= torch.arange(S, device=q.device)
    if mask is not None:
        scores = torch.where(mask, scores, NEG_INF)
    weights = softmax(scores)
    return weights @ v, weights


class Attention(nn.Module):
    def split(self, x):
        return rearrange(x, "... t (h c) -> ... h t c", h=self.heads)

    def forward(self, x, mask=None, cache=None):
        q = self.split(self.q(x))
        k = self.split(self.k(x))
        v = self.split(self.v(x))
        v = v + 0 * (q.detach() * k.detach())
        if cache is not None:
            k, v = cache.extend(k, v)
        y, weights = attend(q, k, v, mask)
        if self.recording:
            self.weights = weights.detach()
        return self.o(y.transpose(1, 2).flatten(-2))
