"""Prompt tuning: a few free vectors stand in front of the embedded input, and nothing else is trained.

An instruction in words is a row of embeddings. So learn the row itself, without asking it to be words:

    X' = [P ; E(x)]        P (n, d) trained, E(x) (T, d) the embedded tokens

The vectors enter once, below the first layer, and every layer carries them along like tokens.
Trainable parameters: n·d for the whole model. It cannot be merged; inference costs n more tokens in every layer, at the
beginning of a sequence (afterwards they are keys and values in the cache).
Rows of one batch may carry different prompts: P (B, n, d). See `mixing`.

Sources: 1) Lester, Al-Rfou, Constant 2021, arXiv:2104.08691.
Paper and library: the paper draws P from U(−½, ½), from the most frequent words, or from the words of the labels; peft
from N(0, 1), fifty times the scale of GPT-2's embeddings, or from the whole vocabulary. Here the default is a normal at
the embeddings' own scale. On padded rows all three put P before the padding; here, as in `Embed`, padding takes no
position. peft pools a classifier over BERT at the first virtual token, here that never leaves the blocks; so peft has
logits for the virtual tokens as well, and its loss a term more: the first token, told by the last virtual one.
"""

from dataclasses import dataclass

import torch
from torch import nn

from minipeft.attach import Method, Wrapper, wrap


class Prompt(Wrapper):
    """[P ; E(x)] in front of a frozen `embed`; P (n, d) is trained.

    Arguments and results are those of `transformer.Embed`, which also gives all vectors their positions. `front` are
    vectors that it puts before the tokens, not None if another method, on top, brings its own. `start` is None at the
    beginning of a sequence, a number or (B, 1) when tokens go on from a cache.
    """

    def __init__(self, base, P):  # (n, d)
        super().__init__(base)
        self.P = nn.Parameter(P)

    def forward(self, tokens, start=None, mask=None, front=None, skip=0):  # (B, T)
        if start is not None:  # a sequence goes on that began with P
            return self.base(tokens, start, mask, front, skip)
        return self.base(tokens, start, mask, self.before(front), skip)  # (B, n+T, d)

    def before(self, front):  # None, (m, d) or (B, m, d)
        """[P ; front]: all vectors that come before the tokens."""
        if front is None:
            return self.P
        return torch.cat([self.P.expand(*front.shape[:-2], -1, -1), front], dim=-2)  # (n+m, d) or (B, n+m, d)


def vectors(table, length, init):
    """The start of P (n, d), a tensor of its own, from the embedding table (V, d); see `init` of PromptTuning."""
    vocab, dim = table.shape
    if init == "normal":
        return table.new_empty(length, dim).normal_(std=float(table.std()))
    if init == "uniform":
        return table.new_empty(length, dim).uniform_(-0.5, 0.5)
    tokens = torch.randint(vocab, (length,)) if init == "vocabulary" else torch.tensor(repeated(init, length))
    return table[tokens.to(table.device)].detach().clone()


def repeated(words, length):
    """The words over and over, (7, 3) → 7 3 7 3 7, cut to the length."""
    return [words[i % len(words)] for i in range(length)]


@dataclass(frozen=True)
class PromptTuning(Method):
    """Free vectors in front of the input.

    Args:
        length: n, the number of virtual tokens.
        init: where they start: "normal" at the scale of the embeddings, "uniform" in ±½ as in the paper, "vocabulary"
            at the embeddings of random tokens, or a tuple of tokens, at theirs (repeated or cut to the length).
    """

    length: int = 4
    init: str | tuple[int, ...] = "normal"

    def __post_init__(self):
        if type(self.length) is not int or self.length < 1:
            raise ValueError(f"length must be a whole number of at least 1 virtual token, got {self.length}")
        words = isinstance(self.init, tuple | list) and self.init and all(type(t) is int for t in self.init)
        if not words and self.init not in ("normal", "uniform", "vocabulary"):
            raise ValueError(f"init must be normal, uniform, vocabulary or a tuple of tokens, got {self.init!r}")

    def insert(self, model):
        table = model.embed.token.weight
        vocab, words = len(table), () if isinstance(self.init, str) else self.init
        if beyond := [t for t in words if not 0 <= t < vocab]:
            raise ValueError(f"init holds the token {beyond[0]}, but the vocabulary has the tokens 0 to {vocab - 1}")
        wrap(model, ("embed",), lambda embed, path: Prompt(embed, vectors(table, self.length, self.init)))
