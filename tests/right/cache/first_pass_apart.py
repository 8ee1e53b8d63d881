# The first pass apart from the loop; the old keys put before by padding and adding.

import torch
import torch.nn.functional as F
from torch import nn


class KVCache:
    def extend(self, k, v):
        if self.k is not None:
            T, S = k.size(-2), self.k.size(-2)
            k = F.pad(k, (0, 0, S, 0)) + F.pad(self.k, (0, 0, 0, T))
            v = F.pad(v, (0, 0, S, 0)) + F.pad(self.v, (0, 0, 0, T))
        if not self.fixed:
            self.k, self.v = k, v
        return k, v


class Cache:
    def extend(self, tokens, mask=None):
        if mask is None and self.mask is None:
            return
        B, T = tokens.shape
        if self.mask is None:
            n = self.length
            for vectors in self.front:
                n += vectors.shape[-2]
            self.mask = torch.ones(B, n, dtype=torch.bool, device=tokens.device)
        elif self.front:
            pass
        new = torch.ones(B, T, dtype=torch.bool, device=tokens.device) if mask is None else (mask != 0)
        self.mask = torch.cat((self.mask, new), dim=-1)


class Transformer(nn.Module):
    def new_cache(self, fixed=False):
        made = self.begin(self.blocks)
        for kv in made.layers:
            kv.fixed = fixed
        return made

    def forward(self, tokens, mask=None, cache=None):
        if cache is None:
            cache = self.new_cache(fixed=True)
        T = tokens.shape[1]
        past = cache.length
        cache.extend(tokens, mask)
        h = self.embed(tokens, cache)
        visible = attention_mask(h.shape[1], past + h.shape[1], self.config.causal, cache.mask, device=h.device)
        for number, block in enumerate(self.blocks):
            h = block(h, visible, cache.layers[number])
        h = h[:, h.shape[1] - T :, :]
        return self.head(self.norm(h))

    @torch.no_grad()
    def generate(self, tokens, new, mask=None, temperature=0.0, stop=None, cache=True, generator=None):
        past = self.new_cache() if cache else None
        made = torch.full((len(tokens), new), -1 if stop is None else stop, dtype=tokens.dtype, device=tokens.device)
        going = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        step, known = tokens, mask
        for t in range(new):
            chosen = choose(self(step, known, past)[:, -1], temperature, generator)[:, 0]
            made[going, t] = chosen[going]
            if stop is not None:
                going = going & (made[:, t] != stop)
                if not going.any():
                    return made[:, : t + 1]
            if cache:
                step, known = made[:, t : t + 1], None
            else:
                step = torch.cat([tokens, made[:, : t + 1]], 1)
                known = None if mask is None else F.pad(mask, (0, t + 1), value=True)
        return made
