# P-tuning v2 that sets its layer as an attribute, so that the method does not know of it and does not save it.
# earns: is not among the layers that the method has put in place

import torch
from torch import nn


class DeepPrompts(Wrapper):
    def keys_values(self, block, P):
        inner = block.norm1(P) if block.pre_norm else P
        K = nn.functional.linear(inner, block.attn.k.weight, block.attn.k.bias)
        V = nn.functional.linear(inner, block.attn.v.weight, block.attn.v.bias)
        return K, V

    def forward(self, blocks):
        cache = self.base(blocks)
        for i, block in enumerate(blocks):
            K, V = self.keys_values(block, self.P[i])
            cache.layers[i].extend(block.attn.split(K), block.attn.split(V))
        return cache


class DeepKeys(Wrapper):
    def forward(self, blocks):
        cache = self.base(blocks)
        for i, block in enumerate(blocks):
            cache.layers[i].extend(block.attn.split(self.P_K[i]), block.attn.split(self.P_V[i]))
        return cache


class PTuningV2(Method):
    def insert(self, model):
        kind = {"hidden": DeepPrompts, "key/value": DeepKeys}[self.form]
        for _, part in stacks(model):
            drawn = self.start(table(part), len(part.blocks))
            setattr(part, "begin", kind(part.begin, *drawn))

    def start(self, table, layers):
        size = (layers, self.length, table.shape[1])
        if self.form == "hidden":
            return [torch.randn(size, dtype=table.dtype, device=table.device) * table.std()]
        return [torch.randn(size, dtype=table.dtype, device=table.device) for _ in ("P_K", "P_V")]
