# Cross-attention borrows the norm of attention.
# earns: cross-attention shares the norm of attention

import torch
from torch import nn


class CrossAttention(Attention):
    def remember(self, x, cache):
        keys, values = self.k(x), self.v(x)
        cache.extend(self.split(keys), self.split(values))

    def forward(self, x, mask=None, cache=None):
        queries = self.split(self.q(x))
        y, weights = attend(queries, cache.k, cache.v, mask)
        if self.recording:
            self.weights = weights.detach()
        return self.o(torch.cat(y.unbind(1), -1))


class DecoderBlock(Block):
    def forward(self, x, mask, cache, seen, memory):
        if self.pre_norm:
            x = x + self.attn(self.norm1(x), mask, cache)
            x = x + self.cross(self.norm1(x), seen, memory)
            x = x + self.mlp(self.norm2(x))
        else:
            x = self.norm1(x + self.attn(x, mask, cache))
            x = self.norm_cross(x + self.cross(x, seen, memory))
            x = self.norm2(x + self.mlp(x))
        return x


class Memory(nn.Module):
    def forward(self, x, mask=None):
        blocks = self.blocks
        cache = self.begin(blocks)
        cache.extend(x[:, :, 0], mask)
        ahead = [P.expand(x.shape[0], -1, -1) for P in cache.front]
        cache.front = []
        x = torch.cat(ahead + [x], 1)
        for one, layer in zip(blocks, cache.layers):
            one.attn.remember(x, layer)
        return cache


class Decoder(Stack):
    def forward(self, x, cache, memory):
        U = x.shape[1]
        mask = attention_mask(U, cache.length + U, causal=True, device=x.device)
        seen = memory.mask
        if seen is not None:
            seen = seen[:, None, None, :]
        for i, block in enumerate(self.blocks):
            x = block(x, mask, cache.layers[i], seen, memory.layers[i])
        return self.norm(x)
