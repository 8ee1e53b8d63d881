# The logits are divided by the temperature before choose does it again.
# earns: temperature is used twice

import torch
import torch.nn.functional as F
from torch import nn


class KVCache:
    def extend(self, k, v):
        pieces_k, pieces_v = [k], [v]
        if self.k is not None:
            pieces_k.insert(0, self.k.broadcast_to(*k.shape[:2], *self.k.shape[-2:]))
            pieces_v.insert(0, self.v.broadcast_to(*v.shape[:2], *self.v.shape[-2:]))
        both = [torch.concat(pieces, -2) for pieces in (pieces_k, pieces_v)]
        if not self.fixed:
            self.k, self.v = both
        return tuple(both)


class Cache:
    def extend(self, tokens, mask=None):
        if mask is None:
            if self.mask is None:
                return None
            here = tokens == tokens
        else:
            here = mask.bool()
        front = self.length + sum(len(P.mT[..., 0, :]) if P.ndim == 2 else P.size(1) for P in self.front)
        earlier = here.new_full((len(here), front), True) if self.mask is None else self.mask
        self.mask = torch.hstack((earlier, here))


class Transformer(nn.Module):
    def new_cache(self, fixed=False):
        cache = self.begin(self.blocks)
        [setattr(layer, "fixed", bool(fixed)) for layer in cache.layers]
        return cache

    def forward(self, tokens, mask=None, cache=None):
        cache = cache or self.new_cache(True)
        cache.extend(tokens, mask=mask)
        x = self.embed(tokens, cache=cache)
        n = x.size(1) - tokens.size(1)
        see = attention_mask(x.size(1), cache.length + x.size(1), causal=self.config.causal, mask=cache.mask, device=x.device)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block(x, see, layer)
        return self.head(self.norm(x))[:, n:]

    @torch.no_grad()
    def generate(self, tokens, new, mask=None, temperature=0.0, stop=None, cache=True, generator=None):
        seq, seen = tokens, mask
        kv = self.new_cache() if cache else None
        unread = tokens.size(1)
        finished = [False] * len(tokens)
        for _ in range(new):
            part = seq[:, -unread:] if cache else seq
            part_mask = None if seen is None or (cache and unread == 1 and seq.size(1) > tokens.size(1)) else seen
            logits = self(part, part_mask, kv)[:, -1]
            if temperature > 0:
                logits = logits / temperature
            nxt = choose(logits, temperature, generator)
            if stop is not None:
                for i in range(len(nxt)):
                    nxt[i] = stop if finished[i] else nxt[i]
                    finished[i] = finished[i] or int(nxt[i]) == stop
            seq = torch.cat((seq, nxt), 1)
            if seen is not None:
                seen = torch.cat((seen, torch.ones_like(nxt).bool()), 1)
            unread = 1
            if all(finished):
                break
        return seq[:, tokens.size(1) :]
