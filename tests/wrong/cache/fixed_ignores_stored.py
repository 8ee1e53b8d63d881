# A fixed cache gives back just the new keys and values: what it holds (a prefix) is not read at all.
# earns: returns the new keys and values without the old ones
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.inputs import check_generation, check_rows, keeping_the_cache
from minipeft.models.transformer import attention_mask, choose


class KVCache:
    def extend(self, k, v):
        if self.fixed:
            return k, v
        if self.k is not None:
            rows = k.shape[:-2]
            k = torch.cat([self.k.expand(*rows, -1, -1), k], dim=-2)
            v = torch.cat([self.v.expand(*rows, -1, -1), v], dim=-2)
        self.k, self.v = k, v
        return k, v


class Cache:
    def extend(self, tokens, mask=None):
        if mask is None and self.mask is None:
            return
        if mask is None:
            mask = torch.ones(tokens.shape, dtype=torch.bool, device=tokens.device)
        mask = mask.to(torch.bool)
        if self.mask is None:
            already = self.length
            for P in self.front:
                already += P.shape[-2]
            self.mask = torch.ones(mask.shape[0], already, dtype=torch.bool, device=mask.device)
        self.mask = torch.cat((self.mask, mask), dim=1)


class Transformer(nn.Module):
    def new_cache(self, fixed=False):
        cache = self.begin(self.blocks)
        for layer in cache.layers:
            layer.fixed = fixed
        return cache

    @keeping_the_cache
    def forward(self, tokens, mask=None, cache=None):
        check_rows(tokens, mask, cache)
        if cache is None:
            cache = self.new_cache(fixed=True)
        cache.extend(tokens, mask)
        x = self.embed(tokens, cache)
        n_new = x.size(1)
        visible = attention_mask(n_new, cache.length + n_new, self.config.causal, cache.mask, tokens.device)
        for i, block in enumerate(self.blocks):
            x = block(x, visible, cache.layers[i])
        x = x[:, n_new - tokens.size(1) :]
        return self.head(self.norm(x))

    @torch.no_grad()
    def generate(self, tokens, new, mask=None, temperature=0.0, stop=None, cache=True, generator=None):
        check_generation(self, tokens, new, mask, temperature, stop, cache)
        B = tokens.size(0)
        done = torch.zeros(B, dtype=torch.bool, device=tokens.device)
        memory = self.new_cache() if cache else None
        context, inputs, answer = tokens, tokens, []
        for _ in range(new):
            logits = self(inputs, mask, memory)
            token = choose(logits[:, -1], temperature, generator)
            if stop is not None:
                token = torch.where(done[:, None], torch.full_like(token, stop), token)
                done = done | (token[:, 0] == stop)
            answer.append(token)
            if stop is not None and bool(done.all()):
                break
            if cache:
                inputs, mask = token, None
            else:
                context = torch.cat([context, token], dim=1)
                inputs = context
                if mask is not None:
                    mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return torch.cat(answer, dim=1)
