# Prefix tuning whose values go into the cache as .data: only the keys learn.
# earns: the prefix is cut off from its gradient

import torch
from torch import nn


class Prefix(Wrapper):
    def __init__(self, base, P_K, P_V):
        super().__init__(base)
        self.P_K, self.P_V = map(nn.Parameter, (P_K, P_V))

    def forward(self, blocks):
        begun = self.base(blocks)
        P_K, P_V = self.keys_values()
        for number in range(len(blocks)):
            split = blocks[number].attn.split
            begun.layers[number].extend(k=split(P_K[number]), v=split(P_V[number].data))
        return begun

    def stored(self):
        both = self.keys_values()
        return {"P_K": both[0], "P_V": both[1]}


class MLPPrefix(Prefix):
    def keys_values(self):
        h = torch.tanh(self.W(self.P))
        halves = [layer(h).split(self.P.shape[-1], dim=-1) for layer in self.out]
        P_K, P_V = zip(*halves)
        return torch.stack(P_K), torch.stack(P_V)


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
