"""Text classification on the letters: to which of eight classes does an instruction belong?

    please backwards after : cabbed =      reverse is operation 1, next is table 1: class 1 + 1 = 2

An instruction names an operation and a table, in any order, by either synonym, among words that mean nothing. Its class
is the sum of the two numbers, modulo eight. So every class holds eight pairs of meanings, no single word tells it, and
a head that reads the frozen features alone cannot add.
"""

from dataclasses import dataclass, replace

import torch

from minipeft.arguments import ANY, checked
from minipeft.tasks import BOS, FIRST_LETTER, KNOWN_OPERATIONS, LENGTH, LETTERS, SEP, Batch, instructions, shuffled

CLASSES = len(KNOWN_OPERATIONS)  # and as many tables


@dataclass(frozen=True)
class InstructionClass:
    """Endless, or with `each` 8·each examples, drawn with `seed`, and no others."""

    each: int | None = None
    seed: int = 0

    kind = "classification of text"

    def __post_init__(self):
        object.__setattr__(self, "seed", checked("InstructionClass: seed", self.seed, int, ANY))
        if self.each is not None:
            object.__setattr__(self, "each", checked("InstructionClass: each", self.each, int))

    def __str__(self):
        return "class of an instruction" + (f" ({self.each} of each)" if self.each else "")

    def batch(self, size, generator):
        """`size` examples, drawn with `generator`: tokens (B, T) and classes (B,)."""
        if self.each is None:
            return examples(size, generator)
        few = examples(CLASSES * self.each, torch.Generator().manual_seed(self.seed))
        return shuffled(few, size, generator)

    def sets(self, each, seed):
        """What to train on (`each` examples of each class), what to choose by and what to report, for `lab.trial`."""
        return replace(self, each=each or self.each, seed=seed), InstructionClass(), InstructionClass()


def examples(size, generator):
    """A Batch of rows that end with the equals sign; all instructions in it have the same number of words."""
    o, t = torch.randint(CLASSES, (2, size), generator=generator)
    x = torch.randint(len(LETTERS), (size, LENGTH), generator=generator)
    colon, equals = (torch.full((size, 1), mark) for mark in (BOS, SEP))
    tokens = torch.cat([instructions(o, t, generator), colon, x + FIRST_LETTER, equals], dim=1)
    return Batch(tokens, (o + t) % CLASSES)
