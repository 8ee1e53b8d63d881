# The vectors are taken out of a local list only, so the cache keeps them.
# earns: the vectors stay in the cache

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
        front = cache.front
        front = []
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
        real = torch.ones(B, T, dtype=torch.bool, device=tokens.device)
        if cache.mask is not None:
            real = cache.mask[:, -T:]
        started = torch.cumsum(((tokens == self.bos) & real).int(), dim=1) > 0
        started = started | (torch.as_tensor(cache.offset, device=tokens.device) > 0)
        count = torch.cumsum((started & real).long(), dim=1) + cache.offset
        places = torch.cat([torch.zeros(B, n, dtype=torch.long, device=tokens.device), count], dim=1)
        cache.offset = places[:, -1].unsqueeze(1)
        return places
