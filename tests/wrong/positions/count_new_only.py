# With padding, only the new part of the mask is counted: a continuation of a padded cache starts at position 0 again.
# earns: only the new tokens are counted
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.inputs import check_embedded
from minipeft.models.transformer import Cache


class Embed(nn.Module):
    def forward(self, tokens, cache=None):
        if cache is None:
            cache = Cache(1)
        n = 0
        for P in cache.front:
            n += P.shape[-2]
        positions = self.positions(tokens, n, cache)
        check_embedded(tokens, positions, self.token.num_embeddings, self.position.num_embeddings)
        B = tokens.shape[0]
        parts = [P.expand(B, -1, -1) for P in cache.front]
        cache.front = []
        x = torch.cat(parts + [self.token(tokens)], dim=1)
        return self.norm(x + self.position(positions))

    def positions(self, tokens, n, cache):
        new = n + tokens.shape[1]
        if cache.mask is None:
            return torch.arange(cache.length, cache.length + new, device=tokens.device).unsqueeze(0)
        seen = cache.mask[:, -new:].long().cumsum(dim=1) - 1
        return seen.clamp(min=0)


class EmbedFromBOS(Embed):
    def positions(self, tokens, n, cache):
        B, T = tokens.shape
        if cache.mask is None:
            real = torch.ones(B, T, dtype=torch.bool, device=tokens.device)
        else:
            real = cache.mask[:, -T:]
        is_bos = (tokens == self.bos) & real
        started = (is_bos.cumsum(1) + cache.offset) > 0
        count = (started & real).cumsum(1) + cache.offset
        positions = torch.cat([count.new_zeros(B, n), count], dim=1)
        cache.offset = positions[:, -1:]
        return positions
