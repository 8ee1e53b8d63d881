# The stop is asked with `if stop`, which is false for token 0.
# earns: token 0

import torch
import torch.nn.functional as F
from torch import nn


class KVCache:
    def extend(self, k, v):
        if self.k is None:
            keys, values = k, v
        else:
            B = k.shape[0]
            old_k = self.k if self.k.dim() == 4 else self.k.unsqueeze(0).expand(B, -1, -1, -1)
            old_v = self.v if self.v.dim() == 4 else self.v.unsqueeze(0).expand(B, -1, -1, -1)
            keys = torch.cat((old_k, k), dim=2)
            values = torch.cat((old_v, v), dim=2)
        if self.fixed is False:
            self.k = keys
            self.v = values
        return keys, values


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
        B = tokens.shape[0]
        done = torch.zeros(B, 1, dtype=torch.bool, device=tokens.device)
        past = self.new_cache() if cache else None
        answer = tokens.new_empty(B, 0)
        logits = self(tokens, mask, past)
        while True:
            token = choose(logits[:, -1, :], temperature, generator)
            if stop:
                token = token.masked_fill(done, stop)
                done = done | (token == stop)
            answer = torch.cat([answer, token], dim=1)
            if answer.shape[1] == new or bool(done.all()):
                return answer
            if cache:
                logits = self(token, None, past)
            else:
                longer = None
                if mask is not None:
                    longer = torch.cat([mask.bool(), torch.ones_like(answer, dtype=torch.bool)], dim=1)
                logits = self(torch.cat([tokens, answer], dim=1), longer)
