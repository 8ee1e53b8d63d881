# A right solution in other words.
import torch
from torch import nn

from minipeft.attach import Wrapper
from minipeft.targets import stacks, table, wrap


def lay(cache, blocks, made):
    """Append to each layer's cache the pair of (n, d) that `made` gives for its number and block."""
    for i, (memory, block) in enumerate(zip(cache.layers, blocks)):
        memory.extend(*[block.attn.split(x) for x in made(i, block)])
    return cache


class DeepPrompts(Wrapper):
    def keys_values(self, block, P):
        attn = block.attn
        norm = block.norm1 if block.pre_norm else nn.Identity()
        return [project(norm(P)) for project in (attn.k, attn.v)]

    def forward(self, blocks):
        each = self.P.unbind(0)
        return lay(self.base(blocks), blocks, lambda i, block: self.keys_values(block, each[i]))


class DeepKeys(Wrapper):
    def forward(self, blocks):
        pairs = torch.stack([self.P_K, self.P_V], dim=1)  # (L, 2, n, d)
        return lay(self.base(blocks), blocks, lambda i, _: pairs[i])


class PTuningV2(Method):
    def insert(self, model):
        make = {"hidden": DeepPrompts, "key/value": DeepKeys}[self.form]

        def layer(part):
            start = self.start(table(part), len(part.blocks))
            return lambda old, path: make(old, *start)

        for path, part in stacks(model):
            wrap(model, (f".{path}",), layer(part), nn.Module)

    def start(self, table, layers):
        hidden = self.form == "hidden"
        size = (layers, self.length, table.shape[-1])
        std = table.detach().std().item() if hidden else 1
        return tuple(torch.normal(0.0, float(std), size).to(table) for _ in range(1 if hidden else 2))
