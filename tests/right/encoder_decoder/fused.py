# The fused kernel outside of `recording`, heads put together by unbind.

import math

import torch
import torch.nn.functional as F
from torch import nn


class CrossAttention(Attention):
    def remember(self, x, cache):
        k, v = [F.linear(x, p.weight, p.bias) for p in (self.k, self.v)]
        cache.extend(k=self.split(k), v=self.split(v))

    def forward(self, x, mask=None, cache=None):
        q, k, v = self.split(self.q(x)), cache.k, cache.v
        if not self.recording:
            k, v = k.expand(q.size(0), -1, -1, -1), v.expand(q.size(0), -1, -1, -1)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            y, w = attend(q, k, v, mask)
            self.weights = w.detach()
        return self.o(torch.cat(y.unbind(1), dim=-1))


class DecoderBlock(Block):
    def forward(self, x, mask, cache, seen, memory):
        pre = self.pre_norm
        written = self.attn(self.norm1(x) if pre else x, mask, cache)
        x = torch.add(x, written)
        x = x if pre else self.norm1(x)
        found = self.cross(self.norm_cross(x) if pre else x, seen, memory)
        x = torch.add(x, found)
        x = x if pre else self.norm_cross(x)
        x = torch.add(x, self.mlp(self.norm2(x) if pre else x))
        return x if pre else self.norm2(x)


class Memory(nn.Module):
    def forward(self, x, mask=None):
        made, B = self.begin(self.blocks), len(x)
        made.extend(x.argmax(-1), mask)
        front, made.front = made.front, []
        x = torch.hstack([P.broadcast_to(B, *P.shape[-2:]) for P in front] + [x])
        [b.attn.remember(x, kv) for b, kv in zip(self.blocks, made.layers)]
        return made


class Decoder(Stack):
    def forward(self, x, cache, memory):
        mask = attention_mask(x.size(1), x.size(1) + cache.length, causal=True, device=x.device)
        seen = memory.mask if memory.mask is None else memory.mask.unsqueeze(1).unsqueeze(2)
        layers = iter(zip(cache.layers, memory.layers))
        for block in self.blocks:
            own, source = next(layers)
            x = block(x, mask, own, seen, source)
        return self.norm(x)
