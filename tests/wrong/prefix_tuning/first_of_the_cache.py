# read takes the first n keys and values of the cache, not the last n: with a prefix already attached it copies that prefix instead of the words.
# earns: the first n keys of the cache are taken
import torch
from torch import nn

from minipeft.attach import Method, Wrapper
from minipeft.targets import repeated, stacks, table, wrap


class Prefix(Wrapper):
    def __init__(self, base, P_K, P_V):
        super().__init__(base)
        self.P_K = nn.Parameter(P_K)
        self.P_V = nn.Parameter(P_V)

    def forward(self, blocks):
        cache = self.base(blocks)
        all_K, all_V = self.keys_values()
        for i, (layer, block) in enumerate(zip(cache.layers, blocks)):
            k = block.attn.split(all_K[i])
            v = block.attn.split(all_V[i])
            layer.extend(k, v)
        return cache

    def stored(self):
        K, V = self.keys_values()
        return {"P_K": K, "P_V": V}


class MLPPrefix(Prefix):
    def keys_values(self):
        hidden = self.W(self.P).tanh()
        dim = self.P.shape[1]
        both = torch.stack([head(hidden) for head in self.out])
        return both[..., :dim], both[..., dim:]


@torch.no_grad()
def read(model, words):
    cache = model.new_cache()
    cache.front = []
    model(words.unsqueeze(0), cache=cache)
    n = len(words)
    keys, values = [], []
    for layer in cache.layers:
        keys.append(layer.k[0, :, :n].transpose(0, 1).reshape(n, -1))
        values.append(layer.v[0, :, :n].transpose(0, 1).reshape(n, -1))
    return [torch.stack(keys), torch.stack(values)]


class PrefixTuning(Method):
    def free(self, begin, model, table):
        if self.init != "normal":
            words = repeated(self.init, self.length, table.shape[0]).to(table.device)
            K, V = read(model, words)
        else:
            shape = (len(model.blocks), self.length, table.shape[1])
            K = torch.randn(shape, dtype=table.dtype, device=table.device)
            V = torch.randn(shape, dtype=table.dtype, device=table.device)
        return Prefix(begin, K, V)
