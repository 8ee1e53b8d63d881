# A right solution in other words.
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Wrapper
from minipeft.targets import repeated

NAMES = ("P_K", "P_V")


class Prefix(Wrapper):
    def __init__(self, base, P_K, P_V):
        super().__init__(base)
        for name, start in zip(NAMES, (P_K, P_V)):
            self.register_parameter(name, nn.Parameter(start))

    def forward(self, blocks):
        memory = self.base(blocks)
        K, V = self.keys_values()
        for l in reversed(range(len(memory.layers))):
            split = blocks[l].attn.split
            memory.layers[l].extend(v=split(V.select(0, l)), k=split(K.select(0, l)))
        return memory

    def stored(self):
        made = self.keys_values()
        return {name: made[i] for i, name in enumerate(NAMES)}


class MLPPrefix(Prefix):
    def keys_values(self):
        z = self.W(self.P)
        h = 2 * torch.sigmoid(2 * z) - 1  # tanh
        d = self.P.shape[-1]
        halves = []
        for half in (slice(0, d), slice(d, None)):
            W = torch.stack([layer.weight[half] for layer in self.out])  # (L, d, w)
            b = torch.stack([layer.bias[half] for layer in self.out])  # (L, d)
            halves.append(torch.einsum("nw,ldw->lnd", h, W) + b[:, None])
        return halves


def heads_together(x, n):
    return x[0].narrow(1, x.shape[2] - n, n).permute(1, 0, 2).flatten(1)


def read(model, words):
    with torch.no_grad():
        memory = model.new_cache()
        memory.front.clear()
        model(words.view(1, -1), cache=memory)
        n = words.numel()
        K = torch.stack([heads_together(layer.k, n) for layer in memory.layers])
        V = torch.stack([heads_together(layer.v, n) for layer in memory.layers])
    return K, V


class PrefixTuning(Method):
    def free(self, begin, model, table):
        if isinstance(self.init, tuple):
            return Prefix(begin, *read(model, repeated(self.init, self.length, len(table)).to(table.device)))
        like = table.detach()[:1].new_zeros(len(model.blocks), self.length, table.shape[1])
        return Prefix(begin, torch.randn_like(like), torch.randn_like(like))
