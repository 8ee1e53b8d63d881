# Prefix tuning whose words are each repeated before the next: 5 5 5 9 9.
# earns: equal words stand side by side

import torch
from torch import nn


class Prefix(Wrapper):
    def __init__(self, base, P_K, P_V):
        super().__init__(base)
        self.P_K = nn.Parameter(P_K.clone())
        self.P_V = nn.Parameter(P_V.clone())

    def forward(self, blocks):
        cache = self.base(blocks)
        keys, values = self.keys_values()
        for i, block in enumerate(blocks):
            n, d = keys[i].shape
            heads = block.attn.heads
            k = keys[i].view(n, heads, d // heads).permute(1, 0, 2)
            v = values[i].view(n, heads, d // heads).permute(1, 0, 2)
            cache.layers[i].extend(k, v)
        return cache

    def stored(self):
        P_K, P_V = self.keys_values()
        return {"P_K": P_K.detach(), "P_V": P_V.detach()}


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
            times = -(-self.length // len(self.init))
            words = [word for word in self.init for _ in range(times)][: self.length]
            P_K, P_V = read(model, torch.tensor(words))
        return Prefix(begin, P_K, P_V)
