# Positions are taken from the mask as in HuggingFace's GPT-2, but over the new tokens alone.
# earns: only the new tokens are counted

import torch
import torch.nn.functional as F
from torch import nn


class Embed(nn.Module):
    def forward(self, tokens, cache=None):
        cache = cache if cache is not None else Cache(layers=1)
        vectors = F.embedding(tokens, self.token.weight)
        while cache.front:
            nearest, cache.front = cache.front[-1], cache.front[:-1]
            vectors = torch.cat((nearest.expand(vectors.size(0), *nearest.shape[-2:]), vectors), 1)
        n = vectors.size(1) - tokens.size(1)
        vectors = vectors + F.embedding(self.positions(tokens, n, cache), self.position.weight)
        return self.norm(vectors)

    def positions(self, tokens, n, cache):
        new = n + tokens.size(1)
        if cache.mask is None:
            return torch.arange(cache.length, cache.length + new)[None]
        attention_mask = cache.mask[:, -new:].long()
        position_ids = attention_mask.cumsum(-1) - 1
        return position_ids.masked_fill(attention_mask == 0, 1)


class EmbedFromBOS(Embed):
    def positions(self, tokens, n, cache):
        real = torch.ones_like(tokens) if cache.mask is None else cache.mask[:, n - n - tokens.size(1) :].long()
        here = (tokens == self.bos).long() * real
        offset = cache.offset if isinstance(cache.offset, torch.Tensor) else tokens.new_full((1, 1), cache.offset)
        begun = (here.cummax(dim=1).values + offset.clamp(max=1)).clamp(max=1)
        running = offset + (begun * real).cumsum(1)
        cache.offset = running[:, -1:]
        return F.pad(running, (n, 0), value=0)
