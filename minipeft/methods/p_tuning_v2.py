"""P-tuning v2: deep prompts. Every layer gets vectors of its own in front of its input, and drops what becomes of them.

A prompt below the first layer has to reach the last one through all the others. So put new vectors before every layer:

    h_{l+1} = Block_l([P_l ; h_l]) without its first n rows        P_l (n, d) for each of L layers        form="hidden"

The other rows see the first n as keys and values only, and all else of them is dropped. So nothing else is computed: it
is a prefix whose keys and values are tied (LN is the block's first norm, or none where norms come after):

    P_K = W_k LN(P_l) + b_k,    P_V = W_v LN(P_l) + b_v

The official code learns these directly, as prefix tuning does without its network:                    form="key/value"

    Attn(q, [P_K ; K], [P_V ; V])        P_K, P_V (n, d) for each layer

Trainable parameters: n·d·L, or 2·n·d·L; the paper trains a fresh classification head with them (`classes`). It cannot
be merged; inference costs n more keys and values in every layer.

Sources: 1) Liu et al. 2021, arXiv:2110.07602. 2) its code, THUDM/P-tuning-v2. 3) deep visual prompts, the hidden form:
Jia et al. 2022, arXiv:2203.12119.
Paper and library: for peft this is prefix tuning with a classification task. A prompt at the input alone is not v2,
nor is a network that makes the prefix.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from minipeft.attach import Method, Wrapper
from minipeft.targets import stacks, table, wrap


class DeepPrompts(Wrapper):
    """In front of `begin`: every layer's cache holds the keys and values that the block makes of P (L, n, d)."""

    def __init__(self, base, P):
        super().__init__(base)
        self.P = nn.Parameter(P)

    def keys_values(self, block, P):  # (n, d)
        x = block.norm1(P) if block.pre_norm else P
        return block.attn.k(x), block.attn.v(x)

    def forward(self, blocks):
        cache = self.base(blocks)
        for layer, block, P in zip(cache.layers, blocks, self.P, strict=True):
            layer.extend(*map(block.attn.split, self.keys_values(block, P)))  # (H, n, d/H)
        return cache


class DeepKeys(Wrapper):
    """In front of `begin`: every layer's cache holds P_K and P_V before the first token. Both are (L, n, d)."""

    def __init__(self, base, P_K, P_V):
        super().__init__(base)
        self.P_K, self.P_V = nn.Parameter(P_K), nn.Parameter(P_V)

    def forward(self, blocks):
        cache = self.base(blocks)
        for layer, block, K, V in zip(cache.layers, blocks, self.P_K, self.P_V, strict=True):
            layer.extend(block.attn.split(K), block.attn.split(V))  # (H, n, d/H)
        return cache


@dataclass(frozen=True)
class PTuningV2(Method):
    """Deep prompts.

    Args:
        length: n, how many of them each layer gets.
        form: "hidden", vectors in front of the hidden states, which start at the scale of the embeddings; or
            "key/value", the official one, from N(0, 1).
    """

    length: int = 4
    form: Literal["hidden", "key/value"] = "hidden"

    SIZES = ("length",)

    def insert(self, model):
        """A layer in front of every `begin` that `stacks` finds, with a start of its own."""
        layer = DeepPrompts if self.form == "hidden" else DeepKeys
        for path, part in stacks(model):
            start = self.start(self.like(part), len(part.blocks))
            wrap(model, (f".{path}",), lambda begin, path, start=start: layer(begin, *start), nn.Module)

    def like(self, part):
        """Vectors (m, d) of the width of what is learned: embeddings or, for keys and values, what `k` puts out."""
        like = table(part)
        return like if self.form == "hidden" else like.new_empty(1, part.blocks[0].attn.k.out_features)

    def start(self, table, layers):
        """Where P, or P_K and P_V, begin, (L, n, d) each. table: (m, d), vectors of their width, type and scale."""
        names, std = (("P",), float(table.std())) if self.form == "hidden" else (("P_K", "P_V"), 1.0)
        shape = self.length, table.shape[1]
        drawn = [[table.new_empty(shape).normal_(std=std) for _ in names] for _ in range(layers)]
        return [torch.stack(parts) for parts in zip(*drawn, strict=True)]
