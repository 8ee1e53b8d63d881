# P-tuning v2 that computes the keys and values of its prompts under torch.no_grad, because the projections are frozen.
# earns: the prompts are cut off from their gradient

import torch
from torch import nn


class DeepPrompts(Wrapper):
    @torch.no_grad()
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


class ClassHead(Wrapper):
    def __init__(self, base, dim, classes, place):
        super().__init__(base)
        self.place = place
        self.classify = nn.Linear(dim, classes, bias=True)

    def forward(self, h):
        token = h[:, self.place, :]
        return self.classify(token)


class Unpadded(Wrapper):
    def forward(self, tokens, cache):
        T = tokens.shape[1]
        if cache.mask is not None:
            new = cache.mask[:, -T:]
            real = new[:, self.place]
            if not bool(real.all()):
                raise ValueError("a row has padding where the head reads")
        return self.base(tokens, cache)


class PTuningV2(Method):
    def insert(self, model):
        table = embeddings(model)
        drawn = self.start(table, len(model.blocks))
        kind = {"hidden": DeepPrompts, "key/value": DeepKeys}[self.form]
        wrap(model, (".begin",), lambda begin, path: kind(begin, *drawn), nn.Module)
        if self.classes is None:
            return
        place = -1 if bottom(model).config.causal else 0
        wrap(model, (".embed",), lambda embed, path: Unpadded(embed, place), nn.Module)
        wrap(model, (".head",), lambda head, path: ClassHead(head, table.shape[1], self.classes, place).to(table), nn.Module)

    def start(self, table, layers):
        size = (layers, self.length, table.shape[1])
        if self.form == "hidden":
            return [torch.randn(size, dtype=table.dtype, device=table.device) * table.std()]
        return [torch.randn(size, dtype=table.dtype, device=table.device) for _ in ("P_K", "P_V")]
