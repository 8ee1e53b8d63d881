# The place of BOS is found with argmax, which says 0 where there is none.
# earns: a row without BOS

import torch
import torch.nn.functional as F
from torch import nn


class Embed(nn.Module):
    def forward(self, tokens, cache=None):
        if cache is None:
            cache = Cache(1)
        rows = tokens.shape[0]
        pieces = []
        for vectors in cache.front:
            pieces.append(vectors if vectors.dim() == 3 else vectors.unsqueeze(0).repeat(rows, 1, 1))
        n = sum(piece.shape[1] for piece in pieces)
        where = self.positions(tokens, n, cache)
        what = torch.cat(pieces + [self.token(tokens)], dim=1)
        cache.front = []
        return self.norm(what + self.position(where))

    def positions(self, tokens, n, cache):
        count = n + tokens.shape[1]
        if cache.mask is not None:
            visible_before = torch.cumsum(cache.mask.long(), dim=1) - cache.mask.long()
            return visible_before[:, visible_before.shape[1] - count :]
        first = cache.length
        return torch.arange(first, first + count, device=tokens.device).unsqueeze(0)


class EmbedFromBOS(Embed):
    def positions(self, tokens, n, cache):
        B, T = tokens.shape
        real = cache.mask[:, -T:] if cache.mask is not None else torch.ones(B, T, dtype=torch.bool)
        is_bos = (tokens == self.bos) & real
        first = is_bos.int().argmax(dim=1, keepdim=True)
        carried = torch.as_tensor(cache.offset)
        first = torch.where(carried > 0, torch.zeros_like(first), first)
        after = torch.arange(T)[None] >= first
        count = carried + (after & real).cumsum(1)
        cache.offset = count[:, -1:]
        return F.pad(count, (n, 0))
