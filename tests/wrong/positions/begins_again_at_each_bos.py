# The count begins again at each BOS.
# earns: begins again at the second BOS

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
        total = cache.length + n + tokens.size(1)
        mask = cache.mask
        if mask is None:
            mask = torch.ones(1, total, dtype=torch.bool, device=tokens.device)
        rank = mask.cumsum(-1) - 1
        rank = rank.masked_fill(~mask, 1)
        return rank[:, cache.length :]


class EmbedFromBOS(Embed):
    def positions(self, tokens, n, cache):
        T = tokens.size(1)
        real = torch.ones_like(tokens, dtype=torch.bool) if cache.mask is None else cache.mask[:, -T:]
        start = torch.as_tensor(cache.offset).expand(len(tokens), 1)[:, 0]
        columns = []
        for t in range(T):
            bos = (tokens[:, t] == self.bos) & real[:, t]
            start = torch.where(bos, torch.ones_like(start), torch.where(real[:, t] & (start > 0), start + 1, start))
            columns.append(start)
        cache.offset = start[:, None]
        return F.pad(torch.stack(columns, 1), (n, 0))
