# The first token's query asks for all tokens of the answer.
# earns: The output is not that of queries from the answer

import math

import torch
import torch.nn.functional as F
from torch import nn


class CrossAttention(Attention):
    def remember(self, x, cache):
        keys = self.k(x)
        values = self.v(x)
        cache.extend(self.split(keys), self.split(values))

    def forward(self, x, mask=None, cache=None):
        queries = self.split(self.q(x[:, :1].expand_as(x)))
        mixed, weights = attend(queries, cache.k, cache.v, mask=mask)
        if self.recording is True:
            self.weights = weights.detach()
        B, H, U, size = mixed.shape
        together = mixed.permute(0, 2, 1, 3).reshape(B, U, H * size)
        return self.o(together)


class DecoderBlock(Block):
    def forward(self, x, mask, cache, seen, memory):
        if not self.pre_norm:
            a = self.norm1(x + self.attn(x, mask, cache))
            b = self.norm_cross(a + self.cross(a, seen, memory))
            return self.norm2(b + self.mlp(b))
        a = x + self.attn(self.norm1(x), mask, cache)
        b = a + self.cross(self.norm_cross(a), seen, memory)
        return b + self.mlp(self.norm2(b))


class Memory(nn.Module):
    def forward(self, x, mask=None):
        blocks = self.blocks
        cache = self.begin(blocks)
        cache.extend(x[:, :, 0], mask)
        pieces = []
        for vectors in cache.front:
            pieces.append(vectors.expand(x.shape[0], -1, -1))
        x = torch.cat(pieces + [x], dim=1)
        cache.front = []
        for i, block in enumerate(blocks):
            block.attn.remember(x, cache.layers[i])
        return cache


class Decoder(Stack):
    def forward(self, x, cache, memory):
        length = x.shape[1]
        mask = attention_mask(length, length + cache.length, True, device=x.device)
        if memory.mask is None:
            seen = None
        else:
            seen = memory.mask[:, None, None, :]
        for i, block in enumerate(self.blocks):
            x = block(x, mask, cache.layers[i], seen, memory.layers[i])
        return self.norm(x)
