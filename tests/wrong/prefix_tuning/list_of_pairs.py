# Prefix tuning that returns a list of (key, value) pairs, one for each layer, as older libraries pass them.
# earns: a list of keys and values is returned, not the cache

import torch
from torch import nn


class Prefix(Wrapper):
    def __init__(self, base, P_K, P_V):
        super().__init__(base)
        self.P_K = nn.Parameter(P_K)
        self.P_V = nn.Parameter(P_V)

    def forward(self, blocks):
        past_key_values = []
        for block, k, v in zip(blocks, *self.keys_values()):
            past_key_values.append((block.attn.split(k), block.attn.split(v)))
        return past_key_values

    def stored(self):
        P_K, P_V = self.keys_values()
        return {"P_K": P_K, "P_V": P_V}


class MLPPrefix(Prefix):
    def keys_values(self):
        hidden = self.W(self.P).tanh()
        d = self.P.shape[1]
        K, V = [], []
        for W_l in self.out:
            both = W_l(hidden)
            K.append(both[:, :d])
            V.append(both[:, d:])
        return torch.stack(K), torch.stack(V)


@torch.no_grad()
def read(model, words):
    cache = model.new_cache()
    cache.front.clear()
    model(words.unsqueeze(0), cache=cache)
    n = words.numel()
    keys = torch.stack([layer.k[0, :, -n:].permute(1, 0, 2).reshape(n, -1) for layer in cache.layers])
    values = torch.stack([layer.v[0, :, -n:].permute(1, 0, 2).reshape(n, -1) for layer in cache.layers])
    return keys, values


class PrefixTuning(Method):
    def free(self, begin, model, table):
        if self.init == "normal":
            size = (len(model.blocks), self.length, table.shape[1])
            P_K = torch.randn(size, dtype=table.dtype, device=table.device)
            P_V = torch.randn(size, dtype=table.dtype, device=table.device)
        else:
            words = [self.init[i % len(self.init)] for i in range(self.length)]
            P_K, P_V = read(model, torch.tensor(words))
        return Prefix(begin, P_K, P_V)
