# A right solution in other words.
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Wrapper, bottom
from minipeft.targets import embeddings, wrap

PLACES = {True: -1, False: 0}


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


class ClassHead(Wrapper):
    def __init__(self, base, dim, classes, place):
        super().__init__(base)
        self.add_module("classify", nn.Linear(in_features=dim, out_features=classes))
        self.place = place

    def forward(self, h):
        return F.linear(h.select(1, self.place), self.classify.weight, self.classify.bias)


class Unpadded(Wrapper):
    def forward(self, tokens, cache):
        T = tokens.shape[1]
        seen = torch.ones_like(tokens, dtype=torch.bool) if cache.mask is None else cache.mask.flip(1)[:, :T].flip(1)
        if bool((~seen).select(1, self.place).any()):
            raise ValueError("the token that the classification head reads is padding in some row")
        return self.base(tokens, cache)


class PTuningV2(Method):
    def insert(self, model):
        table = embeddings(model)
        if self.classes:
            place = PLACES[bool(bottom(model).config.causal)]

            def head(old, path):
                return ClassHead(old, table.shape[1], self.classes, place).to(table.device, table.dtype)

            wrap(model, (".head",), head, nn.Module)
            wrap(model, (".embed",), lambda old, path: Unpadded(old, place), nn.Module)
        make = {"hidden": DeepPrompts, "key/value": DeepKeys}[self.form]
        start = self.start(table, len(model.blocks))
        wrap(model, (".begin",), lambda old, path: make(old, *start), nn.Module)

    def start(self, table, layers):
        hidden = self.form == "hidden"
        size = (layers, self.length, table.shape[-1])
        std = table.detach().std().item() if hidden else 1
        return tuple(torch.normal(0.0, float(std), size).to(table) for _ in range(1 if hidden else 2))
