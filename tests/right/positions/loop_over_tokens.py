# Counted token by token in plain Python, with one-hot rows times the tables.

import torch
import torch.nn.functional as F
from torch import nn


class Embed(nn.Module):
    def forward(self, tokens, cache=None):
        cache = Cache(1) if cache is None else cache
        front, cache.front = list(cache.front), []
        n = sum(P.shape[-2] for P in front)
        where = self.positions(tokens, n, cache).expand(len(tokens), -1)
        table = self.token.weight
        words = F.one_hot(tokens, len(table)).to(table.dtype) @ table
        stack = [torch.cat([*(P[i] if P.ndim == 3 else P for P in front), words[i]]) for i in range(len(tokens))]
        return self.norm(torch.stack(stack) + self.position.weight[where])

    def positions(self, tokens, n, cache):
        new = n + tokens.shape[1]
        if cache.mask is None:
            mask = [[True] * (cache.length + new)]
        else:
            mask = cache.mask.tolist()
        rows = [[sum(row[:t]) for t in range(len(row) - new, len(row))] for row in mask]
        return torch.tensor(rows, device=tokens.device)


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
