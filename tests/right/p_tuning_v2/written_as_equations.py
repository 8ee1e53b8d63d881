# Everything by matrix products: keys and values. The start is drawn layer by layer.

import torch
from torch import nn


class DeepPrompts(Wrapper):
    def keys_values(self, block, P):
        x = P
        if block.pre_norm:
            centred = P - P.mean(-1, keepdim=True)
            x = centred / (P.var(-1, unbiased=False, keepdim=True) + block.norm1.eps).sqrt()
            x = x * block.norm1.weight + block.norm1.bias
        k, v = block.attn.k, block.attn.v
        return torch.addmm(k.bias, x, k.weight.T), torch.addmm(v.bias, x, v.weight.T)

    def forward(self, blocks):
        begun = self.base(blocks)
        made = [self.keys_values(block, P) for block, P in zip(blocks, self.P)]
        for i, (K, V) in enumerate(made):
            begun.layers[i].extend(v=blocks[i].attn.split(V), k=blocks[i].attn.split(K))
        return begun


class DeepKeys(Wrapper):
    def forward(self, blocks):
        begun, n = self.base(blocks), self.P_K.shape[1]
        for i in range(len(blocks)):
            H = blocks[i].attn.heads
            begun.layers[i].extend(
                self.P_K[i].reshape(n, H, -1).permute(1, 0, 2), self.P_V[i].reshape(n, H, -1).permute(1, 0, 2)
            )
        return begun


class PTuningV2(Method):
    def insert(self, model):
        for path, part in stacks(model):
            start = self.start(table(part), len(part.blocks))
            if self.form == "hidden":
                wrap(model, ("." + path,), lambda begin, path: DeepPrompts(begin, *start), nn.Module)
            else:
                wrap(model, ("." + path,), lambda begin, path: DeepKeys(begin, *start), nn.Module)

    def start(self, table, layers):
        def draw(std):
            rows = [torch.empty_like(table[:1]).repeat(self.length, 1).normal_(0.0, std) for _ in range(layers)]
            return torch.stack(rows)

        return [draw(table.std().item())] if self.form == "hidden" else [draw(1.0), draw(1.0)]
