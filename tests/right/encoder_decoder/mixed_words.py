# Bodies of several hands.

import math

import torch
import torch.nn.functional as F
from torch import nn


class CrossAttention(Attention):
    def remember(self, x, cache):
        k, v = [F.linear(x, p.weight, p.bias) for p in (self.k, self.v)]
        cache.extend(k=self.split(k), v=self.split(v))

    def forward(self, x, mask=None, cache=None):
        q = self.split(self.q(x))
        scores = torch.matmul(q, cache.k.mT) / math.sqrt(q.size(-1))
        if mask is not None:
            scores = scores.masked_fill(mask.logical_not(), float("-inf"))
        p = F.softmax(scores, dim=-1)
        self.weights = p.detach() if self.recording else self.weights
        out = torch.matmul(p, cache.v)
        return self.o(out.transpose(1, 2).contiguous().view(x.shape))


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
        U, before = x.size(1), cache.length
        position = torch.arange(before, before + U, device=x.device)
        mask = torch.arange(before + U, device=x.device)[None] <= position[:, None]
        seen = memory.mask
        if seen is not None:
            B, S = seen.shape
            seen = seen.view(B, 1, 1, S)
        for block, own, source in zip(self.blocks, cache.layers, memory.layers):
            x = block(x, mask, own, seen=seen, memory=source)
        return self.norm(x)
