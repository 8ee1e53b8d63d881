# A right solution in other words.
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.inputs import check_generation, check_rows, keeping_the_cache
from minipeft.models.transformer import attention_mask, choose



def appended(old, new):
    """new behind old, which may have no rows yet, along the time."""
    if old is None:
        return new
    return torch.cat((torch.broadcast_to(old, (*new.shape[:-2], *old.shape[-2:])), new), -2)


class KVCache:
    def extend(self, k, v):
        pair = appended(self.k, k), appended(self.v, v)
        if self.fixed:
            return pair
        self.k, self.v = pair
        return self.k, self.v


class Cache:
    def extend(self, tokens, mask=None):
        if self.mask is None and mask is None:
            return
        now = torch.full(tokens.shape, True, device=tokens.device) if mask is None else mask != 0
        if self.mask is not None:
            self.mask = torch.cat((self.mask, now), -1)
        else:
            self.mask = F.pad(now, (self.length + sum(len(P.transpose(0, -2)) for P in self.front), 0), value=True)


class Transformer(nn.Module):
    def new_cache(self, fixed=False):
        made = self.begin(self.blocks)
        [setattr(one, "fixed", fixed) for one in made.layers]
        return made

    @keeping_the_cache
    def forward(self, tokens, mask=None, cache=None):
        check_rows(tokens, mask, cache)
        if cache is None:
            cache = self.new_cache(True)
        cache.extend(tokens, mask)
        hidden = self.embed(tokens, cache)
        length, before = hidden.shape[1], cache.length
        seen = attention_mask(length, before + length, self.config.causal, mask=cache.mask, device=hidden.device)
        for block, layer in zip(self.blocks, cache.layers):
            hidden = block(hidden, mask=seen, cache=layer)
        return self.head(self.norm(hidden)[:, length - tokens.shape[1] :])

    def generate(self, tokens, new, mask=None, temperature=0.0, stop=None, cache=True, generator=None):
        with torch.no_grad():
            check_generation(self, tokens, new, mask, temperature, stop, cache)
            memory = self.new_cache() if cache else None
            said = torch.empty(len(tokens), 0, dtype=torch.long, device=tokens.device)
            while said.shape[1] < new:
                made = said.shape[1]
                if cache and made:
                    logits = self(said[:, -1:], None, memory)
                else:
                    full = torch.cat((tokens, said), 1)
                    logits = self(full, None if mask is None else F.pad(mask, (0, made), value=1), memory)
                token = choose(logits[:, -1], temperature, generator)
                if stop is not None:
                    token = token.masked_fill((said == stop).any(1, keepdim=True), stop)
                said = torch.cat((said, token), 1)
                if stop is not None and (said == stop).any(1).all():
                    break
            return said
