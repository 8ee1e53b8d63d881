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

from minipeft.attach import Method, Wrapper, match, wrap


class Prefix(Wrapper):
    """Attn(q, [P_K ; K], [P_V ; V]) in front of a frozen `attn`, with `self.heads` heads.

    past: what the layer remembers of each row. `past.extend(k, v)` appends keys and values (B, H, S, d/H) to it;
        `past.begun` tells that the sequence has begun. Before that there may be another prefix in it.
    """

    def __init__(self, base, P_K, P_V):  # (n, d)
        super().__init__(base)
        self.P_K, self.P_V = nn.Parameter(P_K), nn.Parameter(P_V)

    def keys_values(self):
        return self.P_K, self.P_V

    def forward(self, x, mask=None, past=None):  # (B, T, d)
        if not past.begun:
            heads = (P.unflatten(1, (self.heads, -1)).transpose(0, 1) for P in self.keys_values())  # (H, n, d/H)
            past.extend(*(P.expand(len(x), -1, -1, -1) for P in heads))  # (B, H, n, d/H)
        return self.base(x, mask, past)

    def stored(self):  # {"P_K": (n, d), "P_V": (n, d)}, whatever made them
        return dict(zip(("P_K", "P_V"), self.keys_values(), strict=True))


class MLPPrefix(Prefix):
    """The same with [P_K ; P_V] = W_l tanh(W P' + b) + b_l, while training."""

    def __init__(self, base, trunk, dim, width):
        Wrapper.__init__(self, base)
        self.trunk = trunk  # tanh(W P' + b), the same module in every layer
        self.out = nn.Linear(width, 2 * dim)

    def keys_values(self):  # (n, w) → (n, 2d) → twice (n, d)
        return self.out(self.trunk()).chunk(2, dim=-1)


class Trunk(nn.Module):
    """tanh(W P' + b)"""

    def __init__(self, length, dim, width):
        super().__init__()
        self.P = nn.Parameter(torch.randn(length, dim))
        self.W = nn.Linear(dim, width)

    def forward(self):  # (n, w)
        return torch.tanh(self.W(self.P))


class AfterPrefix(Wrapper):
    """In front of a frozen `embed`: where positions are absolute, n of them are taken by the prefix.

    It takes what the base takes and gives what the base gives.
    start: how many positions are taken already; None at the beginning of a sequence.
    skip: how many virtual tokens stand before the real ones without a vector here; 0, or those of other methods.
    """

    def __init__(self, base, length):
        super().__init__(base)
        self.length = length

    def forward(self, tokens, start=None, mask=None, front=None, skip=0):
        return self.base(tokens, start, mask, front, skip + self.length if start is None else skip)


def outputs(model, names, tokens):
    """{name: what the module of that name computes, (1, T, d)}, while the frozen model reads tokens (1, T)."""
    found = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: found.update({name: out.detach().clone()})
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def activations(model, paths, tokens):
    """{path: (P_K, P_V)}, (n, d) each: what `k` and `v` of the attention at each path compute from n real tokens.

    If a prompt is attached already, its vectors stand before those of the tokens and are no part of this.
    """
    found = outputs(model, [f"{path}.{name}" for path in paths for name in "kv"], tokens[None])
    return {path: tuple(found[f"{path}.{name}"][0, -len(tokens) :] for name in "kv") for path in paths}


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
        table = model.embed.token.weight
        vocab, dim = table.shape
        if self.mlp:
            trunk = Trunk(self.length, dim, self.mlp).to(table)
            wrap(model, ("attn",), lambda attn, path: MLPPrefix(attn, trunk, dim, self.mlp).to(table))
        else:
            if self.init != "normal" and (beyond := [t for t in self.init if not 0 <= t < vocab]):
                raise ValueError(
                    f"init holds the token {beyond[0]}, but the vocabulary has the tokens 0 to {vocab - 1}"
                )
            start = self.start(model, [path for path, *_ in match(model, ("attn",))])
            wrap(model, ("attn",), lambda attn, path: Prefix(attn, *start[path]))
        wrap(model, ("embed",), lambda embed, path: AfterPrefix(embed, self.length))

    def start(self, model, paths):
        """{path: (P_K, P_V)}, (n, d) each: what the prefix of the attention at a path starts from, as `init` says."""
        table = model.embed.token.weight  # (V, d)
        if self.init == "normal":
            shape = self.length, table.shape[1]
            return {path: tuple(table.new_empty(shape).normal_() for _ in ("P_K", "P_V")) for path in paths}
        words = [self.init[i % len(self.init)] for i in range(self.length)]
        return activations(model, paths, torch.tensor(words, device=table.device))

    def folded(self):
        return replace(self, mlp=None)
