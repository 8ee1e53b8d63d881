# Only the keys are made of LN(P); the values are made of P itself.
# earns: only the keys or only the values are made of LN(P)
import torch
from torch import nn

from minipeft.attach import Method, Wrapper, bottom
from minipeft.targets import embeddings, wrap


class DeepPrompts(Wrapper):
    def keys_values(self, block, P):
        normed = P
        if block.pre_norm:
            normed = block.norm1(P)
        k = block.attn.k(normed)
        v = block.attn.v(P)
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


class ClassHead(Wrapper):
    def __init__(self, base, dim, classes, place):
        super().__init__(base)
        self.place = place
        self.classify = nn.Linear(dim, classes)

    def forward(self, h):
        token = h[:, self.place, :]
        return self.classify(token)


class Unpadded(Wrapper):
    def forward(self, tokens, cache):
        if cache.mask is not None:
            own = cache.mask[:, -tokens.shape[1] :]
            if not own[:, self.place].all():
                where = "first" if self.place == 0 else "last"
                raise ValueError(f"some row has padding at its {where} token, which the head reads")
        return self.base(tokens, cache)


class PTuningV2(Method):
    def insert(self, model):
        table = embeddings(model)
        tensors = self.start(table, len(model.blocks))
        if self.form == "hidden":
            wrap(model, (".begin",), lambda m, path: DeepPrompts(m, *tensors), nn.Module)
        else:
            wrap(model, (".begin",), lambda m, path: DeepKeys(m, *tensors), nn.Module)
        if self.classes is not None:
            place = -1 if bottom(model).config.causal else 0
            width = table.shape[1]
            wrap(model, (".embed",), lambda m, path: Unpadded(m, place), nn.Module)
            wrap(model, (".head",), lambda m, path: ClassHead(m, width, self.classes, place).to(table), nn.Module)

    def start(self, table, layers):
        shape = (layers, self.length, table.shape[1])
        new = lambda std: torch.randn(shape, dtype=table.dtype, device=table.device) * std
        if self.form == "hidden":
            return [new(table.std().item())]
        return [new(1.0), new(1.0)]
