"""P-tuning v2: deep prompts. Every layer gets vectors of its own in front of its input, and drops what becomes of them.

A prompt below the first layer has to reach the last one through all the others. So put new vectors before every layer:

    h_{l+1} = Block_l([P_l ; h_l]) without its first n rows        P_l (n, d) for each of L layers        form="hidden"

The other rows see the first n as keys and values only, and all else of them is dropped. So nothing else is computed: it
is a prefix whose keys and values are tied (LN is the block's first norm, or none where norms come after):

    P_K = W_k LN(P_l) + b_k,    P_V = W_v LN(P_l) + b_v

The official code learns these directly, as prefix tuning does without its network:                    form="key/value"

    Attn(q, [P_K ; K], [P_V ; V])        P_K, P_V (n, d) for each layer

Trainable parameters: n·d·L, or 2·n·d·L, and (d+1)·classes with a classification head. It cannot be merged; inference
costs n more keys and values in every layer.

Sources: 1) Liu et al. 2021, arXiv:2110.07602. 2) its code, THUDM/P-tuning-v2. 3) deep visual prompts, the hidden form:
Jia et al. 2022, arXiv:2203.12119.
Paper and library: for peft this is prefix tuning with a classification task. A prompt at the input alone is not v2,
nor is a network that makes the prefix. The head reads the first token ([CLS]), or the last in a causal model, and
refuses padding there; peft finds the last token of GPT-2 itself, and leaves BERT's pooler, frozen, before the head.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from minipeft.attach import Method, Wrapper, bottom
from minipeft.targets import embeddings, wrap


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


class ClassHead(Wrapper):
    """W h + b of the token at `self.place`, (B, classes), instead of the frozen `head`.

    W and b are those of a Linear, `self.classify`.
    """

    def __init__(self, base, dim, classes, place):
        super().__init__(base)
        self.classify, self.place = nn.Linear(dim, classes), place

    def forward(self, h):  # (B, T, d)
        return self.classify(h[:, self.place])


class Unpadded(Wrapper):
    """In front of `embed`: no row may have padding at the place that a classification head reads."""

    def __init__(self, base, place):
        super().__init__(base)
        self.place = place

    def forward(self, tokens, cache):
        if cache.mask is not None and not cache.mask[:, -tokens.shape[1] :][:, self.place].all():
            place, side = ("last", "left") if self.place else ("first", "right")
            raise ValueError(f"the head reads the {place} token, but a row has padding there: pad on the {side}")
        return self.base(tokens, cache)


@dataclass(frozen=True)
class PTuningV2(Method):
    """Deep prompts.

    Args:
        length: n, how many of them each layer gets.
        form: "hidden", vectors in front of the hidden states, which start at the scale of the embeddings; or
            "key/value", the official one, from N(0, 1).
        classes: put a trained classification head for so many classes in the place of the model's head.
    """

    length: int = 4
    form: Literal["hidden", "key/value"] = "hidden"
    classes: int | None = None

    SIZES = ("length", "classes")
    LIMITS = {"classes": (2, float("inf"))}

    def insert(self, model):
        table = embeddings(model)
        start = self.start(table, len(model.blocks))
        layer = DeepPrompts if self.form == "hidden" else DeepKeys
        wrap(model, (".begin",), lambda begin, path: layer(begin, *start), nn.Module)
        if self.classes:
            dim, place = table.shape[1], -1 if bottom(model).config.causal else 0
            wrap(model, (".embed",), lambda embed, path: Unpadded(embed, place), nn.Module)
            wrap(model, (".head",), lambda head, path: ClassHead(head, dim, self.classes, place).to(table), nn.Module)

    def start(self, table, layers):
        """Where P, or P_K and P_V, begin, (L, n, d) each. table: (V, d), the embeddings of the tokens."""
        names, std = (("P",), float(table.std())) if self.form == "hidden" else (("P_K", "P_V"), 1.0)
        shape = self.length, table.shape[1]
        drawn = [[table.new_empty(shape).normal_(std=std) for _ in names] for _ in range(layers)]
        return [torch.stack(parts) for parts in zip(*drawn, strict=True)]
