# P-tuning v2 whose keys come from W_q instead of W_k.
# earns: the keys of the prompts come from another projection than W_k

import torch
from torch import nn


class DeepPrompts(Wrapper):
    def keys_values(self, block, P):
        attn = block.attn
        if block.pre_norm:
            P = block.norm1(P)
        return [project(P) for project in (attn.q, attn.v)]

    def forward(self, blocks):
        begun = self.base(blocks)
        for layer, block, P in zip(begun.layers, blocks, self.P.unbind()):
            n, H = len(P), block.attn.heads
            k, v = (x.view(n, H, -1).transpose(0, 1) for x in self.keys_values(block, P))
            layer.extend(k, v)
        return begun


class DeepKeys(Wrapper):
    def forward(self, blocks):
        begun = self.base(blocks)
        number = 0
        for block in blocks:
            H = block.attn.heads
            k = torch.stack(self.P_K[number].chunk(H, dim=-1))
            v = torch.stack(self.P_V[number].chunk(H, dim=-1))
            begun.layers[number].extend(k, v)
            number += 1
        return begun


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
