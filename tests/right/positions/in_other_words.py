# A right solution in other words.
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.inputs import check_embedded
from minipeft.models.transformer import Cache



def arrived(tokens, real, bos, offset):
    """From where on the row is counted: once true, always true."""
    here = torch.where(real, tokens == bos, torch.zeros_like(real))
    return (here.int().cummax(dim=1).values > 0) | torch.as_tensor(offset, device=tokens.device).gt(0)


class Embed(nn.Module):
    def forward(self, tokens, cache=None):
        memory = cache if cache is not None else Cache(1)
        rows = tokens.size(0)
        front = [P if P.dim() == 3 and P.size(0) == rows else P.repeat(rows, 1, 1) if P.dim() == 2
                 else P.expand(rows, P.size(1), P.size(2)) for P in memory.front]
        before = sum(P.size(1) for P in front)
        where = self.positions(tokens, before, memory)
        check_embedded(tokens, where, self.token.num_embeddings, self.position.num_embeddings)
        memory.front = []
        places = self.position(where).expand(rows, -1, -1)
        words = self.token(tokens) + places[:, before:]
        if not front:
            return self.norm(words)
        return self.norm(torch.cat((torch.cat(front, dim=1) + places[:, :before], words), dim=1))

    def positions(self, tokens, n, cache):
        count = tokens.size(1) + n
        if cache.mask is None:
            return (cache.length + torch.ones(1, count, dtype=torch.long, device=tokens.device).cumsum(-1)) - 1
        visible = cache.mask.long()
        place = visible.cumsum(-1).sub(1).relu()
        return place.narrow(1, place.size(1) - count, count)


class EmbedFromBOS(Embed):
    def positions(self, tokens, n, cache):
        T = tokens.size(1)
        real = torch.full(tokens.shape, True, device=tokens.device) if cache.mask is None else cache.mask[:, -T:].bool()
        counted = (arrived(tokens, real, self.bos, cache.offset) & real).long()
        mine = counted.cumsum(1) + cache.offset
        cache.offset = mine[:, T - 1 :]
        return torch.cat((torch.zeros(len(mine), n, dtype=mine.dtype, device=mine.device), mine), 1)
