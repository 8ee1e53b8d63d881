"""The toy world in pairs: an encoder reads the instruction and the word, a decoder writes the answer.

    source   reverse next : cabbed     instruction words, a colon, a word of six letters
    answer   = efccbd .                an equals sign, the letters, a full stop

These are the examples of `tasks`, cut in two. The decoder is given "=" and the letters so far, and is asked for the
letters and the full stop. `tasks.answer(model, "reverse next : cabbed")` gives what a model answers.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from minipeft.arguments import a_task, checked
from minipeft.models.encoder_decoder import EncoderDecoderConfig
from minipeft.models.transformer import recording
from minipeft.tasks import (
    BOS,
    EOS,
    HELD_OUT,
    ID,
    LENGTH,
    LETTERS,
    SEP,
    UNSEEN,
    VOCABULARY,
    Batch,
    Few,
    Mixture,
    Task,
    encode,
    rows,
)
from minipeft.training import evaluate


@dataclass(frozen=True)
class Pairs:
    """The examples of a task of letters (`Task`, `Mixture`, `Few`, `Told`) as pairs of source and answer.

    letters: after so many of its letters the answer ends with the full stop. Fewer than 6 are a new duty.
    """

    task: Task | Mixture | Few
    letters: int = LENGTH

    def __post_init__(self):
        a_task("Pairs", self.task)
        object.__setattr__(self, "letters", checked("Pairs: letters", self.letters, int, (1, LENGTH + 1)))

    def __str__(self):
        return str(self.task) + (f", {self.letters} letters" if self.letters < LENGTH else "")

    @property
    def kind(self):
        """What the base knows of it, as for a `Task`; a shorter answer is a new duty."""
        return "new duty" if self.letters < LENGTH else getattr(self.task, "kind", "several tasks")

    def sets(self, examples, seed):
        """What to train on (with `examples`, on so many), what to choose by and what to report: for `lab.trial`."""
        return self if examples is None else replace(self, task=Few(self.task, examples, seed)), self, self

    def known(self):
        """What the base was pretrained on."""
        return pretraining

    def batch(self, size, generator):
        """`size` pairs, drawn with `generator`: sources (B, T), and in `beside` their answers (B, letters + 1)."""
        return self.pairs(self.task.batch(size, generator))

    def __getattr__(self, name):
        if name == "every" and isinstance(self.task, Few):  # a finite task has it, and only a finite one
            return lambda: self.pairs(self.task.every())
        raise AttributeError(f"Pairs has no {name}")

    def pairs(self, batch):
        """Examples (B, T + 7) cut in two before the equals sign."""
        source, answers = batch.tokens.tensor_split([-LENGTH - 1], dim=1)
        answers, full_stop = answers[:, : self.letters + 1], batch.targets[:, -1:]
        return Batch(source, torch.cat([answers[:, 1:], full_stop], dim=1), beside={"answers": answers})


@dataclass(frozen=True)
class Told(Task):
    """A task whose operation is told and whose table is not: `Told("reverse", "violet")` reads `reverse : cabbed`.

    Raises ValueError for an operation that the base has no word for.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.operation in UNSEEN or self.instructed:
            raise ValueError(f"{self!r}: the operation must have a word, and the table is never told")

    def prompt(self, word):
        return f"{self.operation} {super().prompt(word)}"

    def batch(self, size, generator):
        """`size` new examples, drawn with `generator`."""
        x = torch.randint(len(LETTERS), (size, LENGTH), generator=generator)
        return rows(torch.full((size, 1), ID[self.operation]), x, self.answer(x))


CONFIG = EncoderDecoderConfig(len(VOCABULARY), start=SEP, context=24, bos=BOS)
RECIPE = {"steps": 2500, "lr": 2e-3, "batch_size": 128, "warmup": 200 / 2500, "weight_decay": 0.1}
pretraining = Pairs(Mixture())


def scores(model):
    """Exact-match accuracy on 4,000 unseen examples, {what was asked: accuracy}."""
    asked = {"pretraining mixture": pretraining, "held-out pairs, instructed": Pairs(Mixture(HELD_OUT))}
    return {name: evaluate(model, task, 4000).accuracy for name, task in asked.items()}


class Reading(NamedTuple):
    """What a model reads and writes, word by word, and where each word looks.

    encoder: for each block of the encoder the attention of its T words, (H, T, n+T). cross: for each block of the
    decoder the attention of the U words that are written to the memory, (H, U, n+T).
    """

    source: list[str]
    answer: list[str]
    encoder: list[Tensor]
    cross: list[Tensor]


@torch.no_grad()
def reading(model, text):
    """The Reading of a source, such as "reverse next : cabbed"."""
    tokens = encode(text)[None]
    written = model.generate(tokens, LENGTH + 1, stop=EOS)
    begun = torch.cat([written.new_full((1, 1), SEP), written[:, :-1]], dim=1)  # what each word is written after
    with recording(model):
        model(tokens, begun)
    source, answer = ([VOCABULARY[t] for t in row[0].tolist()] for row in (tokens, written))
    encoder = [block.attn.weights[0] for block in model.encoder.blocks]
    return Reading(source, answer, encoder, [block.cross.weights[0] for block in model.decoder.blocks])
