"""Random words with random answers: nothing to understand, only to memorise. What a model recalls is what it stores."""

from dataclasses import dataclass

import torch

from minipeft.tasks import LENGTH, LETTERS, rows, shuffled


@dataclass(frozen=True)
class RandomWords:
    """`size` words of six random letters, each with an answer of six random letters, drawn with `seed`."""

    size: int
    seed: int = 0

    def every(self):
        """All of them, as one Batch, without an instruction in front."""
        generator = torch.Generator().manual_seed(self.seed)
        words, answers = torch.randint(len(LETTERS), (2, self.size, LENGTH), generator=generator)
        return rows(torch.empty(self.size, 0, dtype=torch.long), words, answers)

    def batch(self, size, generator):
        """`size` of them, each as often as another (give or take one), in an order drawn with `generator`."""
        return shuffled(self.every(), size, generator)
