# The key/value form starts at the scale of the embeddings as the hidden one does, not from N(0, 1).
# earns: keys and values start at the size of the embeddings too
import torch
from torch import nn

from minipeft.attach import Method, Wrapper
from minipeft.targets import stacks, table, wrap


class DeepPrompts(Wrapper):
    def keys_values(self, block, P):
        normed = P
        if block.pre_norm:
            normed = block.norm1(P)
        k = block.attn.k(normed)
        v = block.attn.v(normed)
        return k, v

    def forward(self, blocks):
        cache = self.base(blocks)
        for i, block in enumerate(blocks):
            k, v = self.keys_values(block, self.P[i])
            cache.layers[i].extend(block.attn.split(k), block.attn.split(v))
        return cache


class DeepKeys(Wrapper):
    def forward(self, blocks):
        cache = self.base(blocks)
        for i, block in enumerate(blocks):
            cache.layers[i].extend(block.attn.split(self.P_K[i]), block.attn.split(self.P_V[i]))
        return cache


class PTuningV2(Method):
    def insert(self, model):
        for where, part in stacks(model):
            tensors = self.start(table(part), len(part.blocks))
            if self.form == "hidden":
                wrap(model, (f".{where}",), lambda m, path: DeepPrompts(m, *tensors), nn.Module)
            else:
                wrap(model, (f".{where}",), lambda m, path: DeepKeys(m, *tensors), nn.Module)

    def start(self, table, layers):
        shape = (layers, self.length, table.shape[1])
        new = lambda std: torch.randn(shape, dtype=table.dtype, device=table.device) * std
        if self.form == "hidden":
            return [new(table.std().item())]
        return [new(table.std().item()) for _ in range(2)]
