# The keys and values of the prompts are one product with W_k and W_v joined, cut in two afterwards.

import torch
from torch import nn


class DeepPrompts(Wrapper):
    def keys_values(self, block, P):
        normed = {True: block.norm1, False: lambda x: x}[block.pre_norm](P)
        both = torch.cat([block.attn.k.weight, block.attn.v.weight]) @ normed.mT
        both = both.mT + torch.cat([block.attn.k.bias, block.attn.v.bias])
        return both.chunk(2, dim=-1)

    def forward(self, blocks):
        cache = self.base(blocks)
        for number, (layer, block) in enumerate(zip(cache.layers, blocks)):
            pair = self.keys_values(block, self.P[number])
            layer.extend(*(torch.stack(x.split(x.shape[-1] // block.attn.heads, dim=-1)) for x in pair))
        return cache


class DeepKeys(Wrapper):
    def forward(self, blocks):
        cache = self.base(blocks)
        K, V = (P.unflatten(-1, (blocks[0].attn.heads, -1)).movedim(2, 1) for P in (self.P_K, self.P_V))
        for layer, k, v in zip(cache.layers, K, V):
            layer.extend(k[None], v[None])
        return cache


class PTuningV2(Method):
    def insert(self, model):
        for place, part in stacks(model):
            start = self.start(table(part), layers=len(part.blocks))

            def begin(module, path):
                return DeepKeys(module, *start) if len(start) == 2 else DeepPrompts(module, start[0])

            wrap(model, ["." + place], begin, nn.Module)

    def start(self, table, layers):
        count = {"hidden": 1, "key/value": 2}[self.form]
        scale = table.std() if count == 1 else 1
        drawn = torch.randn(count, layers, self.length, table.shape[1]).to(table) * scale
        return list(drawn)
