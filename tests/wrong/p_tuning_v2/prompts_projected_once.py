# P-tuning v2 that computes the keys of the prompts at the first call and keeps them.
# earns: computed once and kept

import torch
from torch import nn


class DeepPrompts(Wrapper):
    def keys_values(self, block, P):
        x = block.norm1(P) if block.pre_norm else P
        return block.attn.k(x), block.attn.v(x)

    def forward(self, blocks):
        if not hasattr(self, "projected"):
            self.projected = [self.keys_values(block, P) for block, P in zip(blocks, self.P)]
        cache = self.base(blocks)
        for layer, block, (k, v) in zip(cache.layers, blocks, self.projected):
            layer.extend(block.attn.split(k), block.attn.split(v))
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
        for path, part in stacks(model):
            drawn = self.start(table(part), len(part.blocks))
            wrap(model, ("." + path,), lambda begin, _: kind(begin, *drawn), nn.Module)

    def start(self, table, layers):
        size = (layers, self.length, table.shape[1])
        if self.form == "hidden":
            return [torch.randn(size, dtype=table.dtype, device=table.device) * table.std()]
        return [torch.randn(size, dtype=table.dtype, device=table.device) for _ in ("P_K", "P_V")]
