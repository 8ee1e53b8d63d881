"""Prompt tuning: a few free vectors stand in front of the embedded input, and nothing else is trained.

An instruction in words is a row of embeddings. So learn the row itself, without asking it to be words:

    X' = [P ; E(x)]        P (n, d) trained, E(x) (T, d) the embedded tokens

The vectors enter once, below the first layer, and every layer carries them along like tokens.
Trainable parameters: n·d for the whole model. It cannot be merged; inference costs n more tokens in every layer, at the
beginning of a sequence (afterwards they are keys and values in the cache).

Sources: 1) Lester, Al-Rfou, Constant 2021, arXiv:2104.08691.
Paper and library: the paper draws P from U(−½, ½), from the most frequent words, or from the words of the labels; peft
from N(0, 1), fifty times the scale of GPT-2's embeddings, or from the whole vocabulary. Here the default is a normal at
the embeddings' own scale. On padded rows all three put P before the padding; here, as in `Embed`, padding takes no
position. peft pools a classifier over BERT at the first virtual token, here that never leaves the blocks; so peft has
logits for the virtual tokens as well, and its loss a term more: the first token, told by the last virtual one.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from minipeft.attach import Method, Wrapper
from minipeft.targets import repeated, stacks, table, wrap


class Prompt(Wrapper):
    """In front of `begin`: the sequence begins with P (n, d), vectors to be put before the embedded tokens."""

    def __init__(self, base, P):
        super().__init__(base)
        self.P = nn.Parameter(P)  # (n, d)

    def forward(self, blocks):
        cache = self.base(blocks)
        cache.front.append(self.P)
        return cache


def vectors(table, length, init):
    """The start of P (n, d), a tensor of its own, from the embedding table (V, d); see `init` of PromptTuning."""
    vocab, dim = table.shape
    if init == "normal":
        return table.new_empty(length, dim).normal_(std=float(table.std()))
    if init == "uniform":
        return table.new_empty(length, dim).uniform_(-0.5, 0.5)
    tokens = torch.randint(vocab, (length,)) if init == "vocabulary" else repeated(init, length, vocab)
    return table[tokens.to(table.device)].detach().clone()


@dataclass(frozen=True)
class PromptTuning(Method):
    """Free vectors in front of the input.

    Args:
        length: n, the number of virtual tokens.
        init: where they start: "normal" at the scale of the embeddings, "uniform" in ±½ as in the paper, "vocabulary"
            at the embeddings of random tokens, or a tuple of tokens, at theirs (repeated or cut to the length).
    """

    length: int = 4
    init: Literal["normal", "uniform", "vocabulary"] | tuple[int, ...] = "normal"

    SIZES = ("length",)

    def insert(self, model):
        for path, part in stacks(model, words=self.init not in ("normal", "uniform")):
            start = vectors(table(part), self.length, self.init)
            wrap(model, (f".{path}",), lambda begin, path, start=start: Prompt(begin, start), nn.Module)
