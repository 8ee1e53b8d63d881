# The position vectors are sines and cosines, as in the first Transformer.
# earns: sines and cosines

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
        return self.norm(what + self.waves(where))

    def waves(self, where):
        d = self.token.embedding_dim
        rate = 10000 ** (-torch.arange(0, d, 2) / d)
        angle = where[..., None] * rate
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)

    def positions(self, tokens, n, cache):
        if cache.mask is not None:
            return (cache.mask.cumsum(1) - 1).clamp(min=0)[:, -n - tokens.shape[1] :]
        return torch.arange(cache.length, cache.length + n + tokens.shape[1])[None]


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
