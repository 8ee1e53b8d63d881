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

import torch
from torch import nn

from minipeft.wrapping import Recipe, Wrapper, match, wrap


class Prefix(Wrapper):
    """Attn(q, [P_K ; K], [P_V ; V]) in front of a frozen `attn`."""

    def __init__(self, base, P_K, P_V):  # (n, d)
        super().__init__(base)
        self.P_K, self.P_V = nn.Parameter(P_K), nn.Parameter(P_V)

    def keys_values(self):
        return self.P_K, self.P_V

    def forward(self, x, mask=None, past=None):  # (B, T, d)
        if past.k is None:  # a sequence begins
            heads = (P.unflatten(1, (self.heads, -1)).transpose(0, 1) for P in self.keys_values())  # (H, n, d/H)
            past.extend(*(P.expand(len(x), -1, -1, -1) for P in heads))  # (B, H, n, d/H)
        return self.base(x, mask, past)

    def stored(self):
        return dict(zip(("P_K", "P_V"), self.keys_values(), strict=True))


class MLPPrefix(Prefix):
    """The same with [P_K ; P_V] = W_l tanh(W P' + b) + b_l, while training."""

    def __init__(self, base, trunk, dim, width):
        Wrapper.__init__(self, base)
        self.trunk = trunk  # tanh(W P' + b), the same module in every layer
        self.out = nn.Linear(width, 2 * dim)

    def keys_values(self):
        return self.out(self.trunk()).chunk(2, dim=-1)  # (n, w) → (n, 2d) → twice (n, d)


class Trunk(nn.Module):
    """tanh(W P' + b)"""

    def __init__(self, length, dim, width):
        super().__init__()
        self.P = nn.Parameter(torch.randn(length, dim))
        self.W = nn.Linear(dim, width)

    def forward(self):
        return torch.tanh(self.W(self.P))  # (n, w)


class AfterPrefix(Wrapper):
    """In front of a frozen `embed`: where positions are absolute, n of them are taken by the prefix."""

    def __init__(self, base, length):
        super().__init__(base)
        self.length = length

    def forward(self, tokens, start=None, mask=None, front=None, skip=0):
        return self.base(tokens, start, mask, front, skip + self.length if start is None else skip)


def activations(model, paths, tokens):
    """The keys and values (n, d) that the frozen model computes from real tokens, for the attention at each path."""
    found = {}
    hooks = [
        model.get_submodule(f"{path}.{name}").register_forward_hook(
            lambda module, args, out, key=(path, name): found.update({key: out[0, -len(tokens) :].detach().clone()})
        )
        for path in paths
        for name in ("k", "v")
    ]
    try:
        with torch.no_grad():
            model(tokens[None])
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass(frozen=True)
class PrefixTuning(Recipe):
    """Learned keys and values in front of every layer's own.

    Args:
        length: n, how many of them each layer gets.
        init: "normal", N(0, 1), or a tuple of tokens (repeated or cut to the length): what the base computes from them,
            so that the model starts as if it had read them. Not together with `mlp`.
        mlp: w, the width of the network that makes them while training; None trains them directly.
    """

    length: int = 4
    init: str | tuple[int, ...] = "normal"
    mlp: int | None = None

    def __post_init__(self):
        if type(self.length) is not int or self.length < 1:
            raise ValueError(f"length must be a whole number of at least 1, got {self.length!r}")
        if self.mlp is not None and (type(self.mlp) is not int or self.mlp < 1):
            raise ValueError(f"mlp must be the width of the network, at least 1, or None for none; got {self.mlp!r}")
        words = isinstance(self.init, tuple | list) and self.init and all(type(t) is int for t in self.init)
        if not words and self.init != "normal":
            raise ValueError(f"init must be normal or a tuple of tokens, got {self.init!r}")
        if words and self.mlp:
            raise ValueError("the MLP makes the prefix from random vectors; leave out init or mlp")

    def insert(self, model):
        paths = [path for path, *_ in match(model, ("attn",))]
        dim = model.embed.token.weight.shape[1]
        new = model.embed.token.weight.new_empty
        if self.mlp:
            trunk = Trunk(self.length, dim, self.mlp).to(model.embed.token.weight)
            wrap(model, ("attn",), lambda attn, path: MLPPrefix(attn, trunk, dim, self.mlp).to(trunk.P))
        elif self.init == "normal":
            shape = self.length, dim
            wrap(model, ("attn",), lambda attn, path: Prefix(attn, new(shape).normal_(), new(shape).normal_()))
        else:
            vocab = len(model.embed.token.weight)
            if beyond := [t for t in self.init if not 0 <= t < vocab]:
                raise ValueError(
                    f"init holds the token {beyond[0]}, but the vocabulary has the tokens 0 to {vocab - 1}"
                )
            tokens = torch.tensor([self.init[i % len(self.init)] for i in range(self.length)])
            real = activations(model, paths, tokens.to(model.embed.token.weight.device))
            wrap(model, ("attn",), lambda attn, path: Prefix(attn, real[path, "k"], real[path, "v"]))
        wrap(model, ("embed",), lambda embed, path: AfterPrefix(embed, self.length))

    def folded(self):
        return replace(self, mlp=None)
