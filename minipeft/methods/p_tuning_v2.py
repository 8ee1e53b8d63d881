"""P-tuning v2: deep prompts. Every layer gets vectors of its own in front of its input, and drops what becomes of them.

A prompt below the first layer has to reach the last one through all the others. So put new vectors before every layer:

    h_{l+1} = Block_l([P_l ; h_l]) without its first n rows        P_l (n, d) for each of L layers        form="hidden"

Only keys and values of the first n rows are ever seen by the others. So this is a prefix with tied keys and values,
exactly (`prefix_of` computes it; LN is the block's first norm, or none where norms come after):

    P_K = W_k LN(P_l) + b_k,    P_V = W_v LN(P_l) + b_v

The official code learns these directly, as prefix tuning does without its network:                    form="key/value"

    Attn(q, [P_K ; K], [P_V ; V])        P_K, P_V (n, d) for each layer

Trainable parameters: n·d·L, or 2·n·d·L, and (d+1)·classes with a classification head. It cannot be merged; inference
costs n more rows in every layer, or n more keys and values.

Sources: 1) Liu et al. 2021, arXiv:2110.07602. 2) its code, THUDM/P-tuning-v2. 3) deep visual prompts, the hidden form:
Jia et al. 2022, arXiv:2203.12119.
Paper and library: for peft this is prefix tuning with a classification task. A prompt at the input alone is not v2,
nor is a network that makes the prefix. The head reads the first token ([CLS]), or the last in a causal model, and
refuses padding there; peft finds the last token of GPT-2 itself, and leaves BERT's pooler, frozen, before the head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, Wrapper, bottom, match, wrap


class DeepPrompt(Wrapper):
    """Block([P ; h]) without its first n rows, in front of a frozen block.

    mask: (B, T) booleans, False at padding; later in a sequence over all that was read; None if there is no padding.
    past: what the block's attention remembers; `past.begun` tells that the sequence, and with it P, has been read.
    """

    def __init__(self, base, P):  # (n, d)
        super().__init__(base)
        self.P = nn.Parameter(P)

    def forward(self, h, mask=None, past=None):  # (B, T, d)
        if past.begun:
            return self.base(h, mask, past)
        n = len(self.P)
        mask = mask if mask is None else F.pad(mask, (n, 0), value=True)
        return self.base(torch.cat([self.P.expand(len(h), -1, -1), h], dim=1), mask, past)[:, n:]

    def keys_values(self):  # (n, d) each, from `self.norm1` (if `self.pre_norm`), `self.attn.k` and `self.attn.v`
        x = self.norm1(self.P) if self.pre_norm else self.P
        return self.attn.k(x), self.attn.v(x)


class DeepKeys(Wrapper):
    """Attn(q, [P_K ; K], [P_V ; V]) in front of a frozen `attn`, with `self.heads` heads.

    past: `past.extend(k, v)` appends keys and values (B, H, S, d/H); `past.begun` tells that the sequence has begun.
        Before that there may be another prefix in it.
    """

    def __init__(self, base, P_K, P_V):  # (n, d)
        super().__init__(base)
        self.P_K, self.P_V = nn.Parameter(P_K), nn.Parameter(P_V)

    def forward(self, x, mask=None, past=None):  # (B, T, d)
        if not past.begun:
            heads = (P.unflatten(1, (self.heads, -1)).transpose(0, 1) for P in (self.P_K, self.P_V))  # (H, n, d/H)
            past.extend(*(P.expand(len(x), -1, -1, -1) for P in heads))  # (B, H, n, d/H)
        return self.base(x, mask, past)


class AfterPrompts(Wrapper):
    """In front of a frozen `embed`: where positions are absolute, n of them are taken by the deep prompts."""

    def __init__(self, base, length, place=None):
        super().__init__(base)
        self.length, self.place = length, place  # the place that a classification head reads

    def forward(self, tokens, start=None, mask=None, front=None, skip=0):
        if self.place is not None and mask is not None and not mask[:, self.place].all():
            place, side = ("last", "left") if self.place else ("first", "right")
            raise ValueError(f"the head reads the {place} token, but a row has padding there: pad on the {side}")
        return self.base(tokens, start, mask, front, self.skipped(start, skip))

    def skipped(self, start, skip):
        """How many virtual tokens without a vector take positions before these tokens.

        start: how many positions are taken already; None at the beginning of a sequence.
        skip: the virtual tokens of other methods among them.
        """
        return skip + self.length if start is None else skip


class ClassHead(Wrapper):
    """W h + b of the token at `self.place`, (B, classes), instead of the frozen `head`.

    W and b are those of a Linear, `self.classify`.
    """

    def __init__(self, base, dim, classes, place):
        super().__init__(base)
        self.classify, self.place = nn.Linear(dim, classes), place

    def forward(self, h):  # (B, T, d)
        return self.classify(h[:, self.place])


def prefix_of(model):
    """The prefix that hidden-state prompts amount to: {path of the attention: (P_K, P_V)}, both (n, d)."""
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, DeepPrompt)}
    if not blocks:
        raise ValueError("no hidden-state prompts are attached: attach PTuningV2(form='hidden') first")
    with torch.no_grad():
        return {f"{name}.attn": block.keys_values() for name, block in blocks.items()}


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
    form: str = "hidden"
    classes: int | None = None

    def __post_init__(self):
        if type(self.length) is not int or self.length < 1:
            raise ValueError(f"length must be a whole number of at least 1 prompt per layer, got {self.length!r}")
        if self.form not in ("hidden", "key/value"):
            raise ValueError(f"form must be hidden or key/value, got {self.form!r}")
        if self.classes is not None and (type(self.classes) is not int or self.classes < 2):
            raise ValueError(f"classes must be at least 2, or None for the model's own head; got {self.classes!r}")

    def insert(self, model):
        table = model.embed.token.weight
        if self.form == "hidden":
            layer, places = DeepPrompt, tuple(f".blocks.{i}" for i in range(len(model.blocks)))
        else:
            layer, places = DeepKeys, ("attn",)
        start = self.start(table, [path for path, *_ in match(model, places)])
        wrap(model, tuple(f".{path}" for path in start), lambda module, path: layer(module, *start[path]))
        place = self.place(model)
        wrap(model, ("embed",), lambda embed, path: AfterPrompts(embed, self.length, place))
        if self.classes:
            dim = table.shape[1]
            wrap(model, (".head",), lambda head, path: ClassHead(head, dim, self.classes, place).to(table))

    def start(self, table, paths):
        """What the layer at each path starts from: {path: (P,)}, or {path: (P_K, P_V)} for "key/value", (n, d) each.

        table: (V, d), the embeddings of the tokens.
        """
        names, std = (("P",), float(table.std())) if self.form == "hidden" else (("P_K", "P_V"), 1.0)
        shape = self.length, table.shape[1]
        return {path: tuple(table.new_empty(shape).normal_(std=std) for _ in names) for path in paths}

    def place(self, model):
        """The index of the token that a classification head reads; None without such a head.

        `bottom(model).config.causal` tells which kind of model it is.
        """
        if self.classes is None:
            return None
        return -1 if bottom(model).config.causal else 0
