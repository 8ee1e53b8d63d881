# `read` walks through the blocks itself, behind what the model begins with; the prefix is drawn layer by layer.

import torch
from torch import nn


class Prefix(Wrapper):
    def __init__(self, base, P_K, P_V):
        super().__init__(base)
        for name, start in {"P_K": P_K, "P_V": P_V}.items():
            self.register_parameter(name, nn.Parameter(start.detach().clone()))

    def forward(self, blocks):
        cache = self.base(blocks)
        P_K, P_V = self.keys_values()
        for i, block in enumerate(blocks):
            H = block.attn.heads
            k, v = (P[i].reshape(1, -1, H, P.shape[-1] // H).transpose(1, 2) for P in (P_K, P_V))
            cache.layers[i].extend(k, v)
        return cache

    def stored(self):
        P_K, P_V = (P.detach().clone() for P in self.keys_values())
        return dict(P_K=P_K, P_V=P_V)


class MLPPrefix(Prefix):
    def keys_values(self):
        h = nn.functional.linear(self.P, self.W.weight, self.W.bias).tanh()
        both = torch.stack([layer(h).view(len(h), 2, -1) for layer in self.out])
        return both.unbind(2)


@torch.no_grad()
def read(model, words):
    cache = model.new_cache()
    cache.front = []
    tokens = words.view(1, -1)
    x, n = model.embed(tokens, cache), len(words)
    before = cache.length
    rows = torch.arange(n)[:, None]
    visible = (torch.arange(before + n)[None] <= before + rows) if model.config.causal else None
    keys, values = [], []
    for block, layer in zip(model.blocks, cache.layers):
        inner = block.norm1(x) if block.pre_norm else x
        keys.append(block.attn.k(inner)[0])
        values.append(block.attn.v(inner)[0])
        x = block(x, visible, layer)
    return torch.stack(keys), torch.stack(values)


class PrefixTuning(Method):
    def free(self, begin, model, table):
        if self.init != "normal":
            ids = repeated(self.init, self.length, table.shape[0])
            K, V = read(model, ids)
            return Prefix(base=begin, P_K=K, P_V=V)
        P_K, P_V = [], []
        for _ in model.blocks:
            P_K.append(nn.init.normal_(table.new_zeros(self.length, table.shape[1])))
            P_V.append(nn.init.normal_(table.new_zeros(self.length, table.shape[1])))
        return Prefix(begin, torch.stack(P_K), torch.stack(P_V))
