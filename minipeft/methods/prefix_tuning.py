"""Prefix tuning: every layer attends to a few keys and values that were learned instead of computed.

Reading n words leaves n keys and n values behind in every layer, and that is all that later tokens see of them. So
learn the keys and values themselves:

    Attn(q, [P_K ; K], [P_V ; V])        P_K, P_V (n, d) for each of L layers, split into heads like K and V

A prefix is a key/value cache that was learned. It enters every layer, where a prompt enters below the first.
Trainable parameters: 2·L·n·d. It cannot be merged; inference costs n more keys and values in every layer.

The paper found this hard to train directly, and makes all of them with one network, whose first half the layers share:

    [P_K ; P_V] of layer l = W_l tanh(W P' + b) + b_l        P' (n, d), W (w, d), W_l (2d, w)

Then n·d + dw + w + L(2dw + 2d) parameters are trained; afterwards the network is folded away and 2·L·n·d are stored.

Even P_K = P_V = 0 is not the base: a key of zero scores 0 and takes its share of the softmax.

Sources: 1) Li & Liang 2021, arXiv:2101.00190.
Paper and library: peft draws P_K and P_V from N(0, 1) and leaves the network out by default; its documentation says
that zeros are a no-op, which they are not. It stores one matrix (n, 2Ld): the keys of layer 1, its values, the keys of
layer 2 … With absolute positions the real tokens stand at n, n+1, …, as if the prefix had been read.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from minipeft.attach import Method, Wrapper
from minipeft.targets import repeated, stacks, table, wrap


class Prefix(Wrapper):
    """In front of `begin`: every layer's cache holds P_K and P_V before the first token. Both are (L, n, d)."""

    def __init__(self, base, P_K, P_V):
        super().__init__(base)
        self.P_K, self.P_V = nn.Parameter(P_K), nn.Parameter(P_V)

    def keys_values(self):
        return self.P_K, self.P_V

    def forward(self, blocks):
        cache = self.base(blocks)
        for layer, block, K, V in zip(cache.layers, blocks, *self.keys_values(), strict=True):
            layer.extend(block.attn.split(K), block.attn.split(V))  # (H, n, d/H)
        return cache

    def stored(self):
        """{"P_K": (L, n, d), "P_V": (L, n, d)}, whatever made them."""
        return dict(zip(("P_K", "P_V"), self.keys_values(), strict=True))


class MLPPrefix(Prefix):
    """The same with [P_K ; P_V] = W_l tanh(W P' + b) + b_l in layer l, while training. `P` is P', `out` has all W_l."""

    def __init__(self, base, length, layers, dim, width):
        Wrapper.__init__(self, base)
        self.P = nn.Parameter(torch.randn(length, dim))
        self.W = nn.Linear(dim, width)
        self.out = nn.ModuleList(nn.Linear(width, 2 * dim) for _ in range(layers))

    def keys_values(self):
        h = torch.tanh(self.W(self.P))  # (n, w)
        return torch.stack([W_l(h) for W_l in self.out]).chunk(2, dim=-1)  # (L, n, 2d) → twice (L, n, d)


@torch.no_grad()
def read(model, words):
    """What reading n words leaves behind in every layer: keys and values, (L, n, d) both."""
    cache = model.new_cache()
    cache.front = []  # the vectors of a prompt come after the prefix
    model(words[None], cache=cache)
    left = [[x[0, :, -len(words) :] for x in (layer.k, layer.v)] for layer in cache.layers]  # (H, n, d/H)
    return [torch.stack([x.transpose(0, 1).flatten(1) for x in parts]) for parts in zip(*left, strict=True)]


@dataclass(frozen=True)
class PrefixTuning(Method):
    """Learned keys and values in front of every layer's own.

    Args:
        length: n, how many of them each layer gets.
        init: "normal", N(0, 1), or a tuple of tokens (repeated or cut to the length): what the base computes from them,
            so that a causal model starts as if it had read them. Not together with `mlp`.
        mlp: w, the width of the network that makes them while training; None trains them directly.
    """

    length: int = 4
    init: Literal["normal"] | tuple[int, ...] = "normal"
    mlp: int | None = None

    SIZES = ("length",)

    def __post_init__(self):
        super().__post_init__()
        if self.mlp and self.init != "normal":
            raise ValueError("the MLP makes the prefix from random vectors; leave out init or mlp")

    def insert(self, model):
        make = self.network if self.mlp else self.free
        for path, part in stacks(model, words=self.init != "normal"):
            wrap(model, (f".{path}",), lambda begin, path, part=part: make(begin, part, table(part)), nn.Module)

    def network(self, begin, model, table):
        dim = model.blocks[0].attn.k.out_features
        return MLPPrefix(begin, self.length, len(model.blocks), dim, self.mlp).to(table)

    def free(self, begin, model, table):
        if self.init != "normal":
            return Prefix(begin, *read(model, repeated(self.init, self.length, len(table)).to(table.device)))
        shape = self.length, model.blocks[0].attn.k.out_features  # d, or less where heads share keys
        start = [[table.new_empty(shape).normal_() for _ in ("P_K", "P_V")] for _ in model.blocks]
        return Prefix(begin, *map(torch.stack, zip(*start, strict=True)))

    def folded(self):
        return replace(self, mlp=None)
