# The norms always come before.
# earns: Where norms come after, attention, cross-attention and MLP are not added as they should be.

import math

import torch
import torch.nn.functional as F
from torch import nn


class CrossAttention(Attention):
    def remember(self, x, cache):
        B, S, d = x.size()
        pair = []
        for linear in (self.k, self.v):
            pair.append(linear(x).view(B, S, self.heads, d // self.heads).transpose(1, 2))
        cache.extend(*pair)

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
        def sublayer(h, norm, function):
            if True:
                return h + function(norm(h))
            return norm(h + function(h))

        x = sublayer(x, self.norm1, lambda h: self.attn(h, mask=mask, cache=cache))
        x = sublayer(x, self.norm_cross, lambda h: self.cross(h, mask=seen, cache=memory))
        return sublayer(x, self.norm2, self.mlp)


class Memory(nn.Module):
    def forward(self, x, mask=None):
        cache = self.begin(self.blocks)
        if mask is not None:
            ahead = cache.length + sum(P.size(-2) for P in cache.front)
            cache.mask = F.pad(mask.bool(), (ahead, 0), value=True)
        whole = x
        for P in reversed(cache.front):
            P = P if P.dim() == 3 else P.unsqueeze(0)
            whole = torch.cat((P.expand(len(x), -1, -1), whole), 1)
        cache.front.clear()
        for number, block in enumerate(self.decoder.blocks):
            block.cross.remember(whole, cache.layers[number])
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
