"""A world for a recurrent network: every answer needs the letter that was read before.

A row is a word that names a symbol table T, then six letters x. At each letter the network is asked for

    y_t = T[x_t] + T[x_{t−1}]  mod 16        y_1 = T[x_1]

so it has to carry a letter from one step to the next, and to know the table. The eight known tables of `tasks` are in
pretraining, named by the first token. In a downstream task BOS stands there instead: finding out which table is meant
belongs to the delta. `violet` is a new table: it is never in pretraining, and no word exists for it.

`planted` and `imitate` are an experiment: one weight of the network is changed by a matrix of known rank, and a method
has to find the change from the outputs alone.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from minipeft.arguments import got
from minipeft.attach import detach
from minipeft.models.torch_nets import RecurrentConfig
from minipeft.tasks import (
    BOS,
    FIRST_LETTER,
    ID,
    IGNORE,
    KNOWN_TABLES,
    LENGTH,
    LETTERS,
    TABLES,
    UNSEEN,
    VOCABULARY,
    Batch,
)
from minipeft.training import RECIPE as USUAL
from minipeft.training import TEST, evaluate, parameter_groups, schedule, trained_methods


def sums(x, table):
    """The answers (B, 6) to letters x (B, 6); table: (16,), or (B, 16) for a table of its own in each row."""
    image = table.expand(len(x), -1).gather(1, x)
    return (image + F.pad(image[:, :-1], (1, 0))) % len(LETTERS)


def rows(first, x, y):
    """A Batch from first tokens (B,), letters x and answers y (B, 6). Nothing is asked at the first token."""
    tokens = torch.cat([first[:, None], x + FIRST_LETTER], dim=1)
    return Batch(tokens, F.pad(y + FIRST_LETTER, (1, 0), value=IGNORE))


def draw_letters(size, generator):
    return torch.randint(len(LETTERS), (size, LENGTH), generator=generator)


@dataclass(frozen=True)
class Sums:
    """The sums of one table: `Sums("violet")`.

    `instructed`: the first token names the table (only for what the base has a word for); otherwise it is BOS.
    """

    table: str
    instructed: bool = False

    def __post_init__(self):
        if self.table not in list(TABLES):
            raise ValueError(f"there is no table {got(self.table)}; there are: {', '.join(TABLES)}")
        if not isinstance(self.instructed, bool):
            raise ValueError(f"instructed must be True or False, got {got(self.instructed)}")
        if self.instructed and self.table in UNSEEN:
            raise ValueError(f"{self} cannot be instructed: the base has no word for it")

    def __str__(self):
        return f"sums+{self.table}"

    @property
    def kind(self):
        """What the base knows of it: "known" or "new table"."""
        return "new table" if self.table in UNSEEN else "known"

    def known(self):
        """What the base was pretrained on."""
        return SumsOfKnownTables()

    def batch(self, size, generator):
        """`size` new examples, drawn with `generator`."""
        x = draw_letters(size, generator)
        first = torch.full((size,), ID[self.table] if self.instructed else BOS)
        return rows(first, x, sums(x, TABLES[self.table]))


@dataclass(frozen=True)
class SumsOfKnownTables:
    """What the base is pretrained on: instructed examples of the eight known tables, each as likely as another."""

    def __str__(self):
        return "sums of known tables"

    def batch(self, size, generator):
        """`size` new examples, drawn with `generator`."""
        t = torch.randint(len(KNOWN_TABLES), (size,), generator=generator)
        x = draw_letters(size, generator)
        first = torch.tensor([ID[name] for name in KNOWN_TABLES])[t]
        return rows(first, x, sums(x, torch.stack([TABLES[name] for name in KNOWN_TABLES])[t]))


CONFIG = RecurrentConfig(vocab=len(VOCABULARY))
RECIPE = {"steps": 3000, "lr": 1e-2, "batch_size": 128, "warmup": 1 / 15, "weight_decay": 0.0}
pretraining = SumsOfKnownTables()


def scores(model):
    """Exact-match accuracy on 4,000 unseen examples, told the table and not: {name: accuracy}."""
    asked = {"pretraining": pretraining, "blue, without instruction": Sums("blue"), "violet": Sums("violet")}
    return {name: round(evaluate(model, task, 4000).accuracy, 4) for name, task in asked.items()}


@torch.no_grad()
def by_letter(model, task, size=1000, seed=TEST):
    """The share of right answers at each of the six letters of unseen examples of `Sums`: a list of six."""
    batch = task.batch(size, torch.Generator().manual_seed(seed))
    right = model(batch.tokens).argmax(-1) == batch.targets
    return right[:, 1:].float().mean(0).tolist()


# ---- A planted change of known rank ------------------------------------------------------------------------------


@torch.no_grad()
def planted(model, rank, seed, place="rnn.weight_hh_l0", size=0.3):
    """A teacher: a copy of the model whose weight W at `place` is W + ΔW, ΔW random and of this rank.

    size: ‖ΔW‖/‖W‖.
    """
    teacher, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    W = teacher.get_parameter(place)
    out, into = W.shape
    change = torch.randn(out, rank, generator=generator) @ torch.randn(rank, into, generator=generator)
    W += size * W.norm() * change / change.norm()
    return teacher


@torch.no_grad()
def distance(student, teacher, task=pretraining, size=1000, seed=TEST):
    """Mean squared difference of their logits on unseen examples of the task."""
    tokens = task.batch(size, torch.Generator().manual_seed(seed)).tokens
    return F.mse_loss(student(tokens), teacher(tokens)).item()


def imitate(student, teacher, lr, seed=0, steps=USUAL.steps, batch_size=USUAL.batch_size, task=pretraining):
    """Train what is attached to the student, in place, to give the teacher's logits.

    `fit` trains on classes; here the targets are the teacher's logits and the loss is their mean squared error, as a
    share of what the bare base has, so 1 is the start. The rest is as in `fit`.

    Returns the error that is left on unseen examples, as the same share.
    """
    methods = trained_methods(student)
    groups = parameter_groups(student, methods, lr)
    optimizer = torch.optim.AdamW(groups, betas=USUAL.betas, weight_decay=USUAL.weight_decay)
    warmup = round(USUAL.warmup * steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, warmup))
    generator, whole = torch.Generator().manual_seed(seed), distance(detach(student), teacher, task)
    for step in range(steps):
        tokens = task.batch(batch_size, generator).tokens
        with torch.no_grad():
            wanted = teacher(tokens)
        loss = F.mse_loss(student(tokens), wanted) / whole
        optimizer.zero_grad()
        (loss + sum(method.regularizer(view) for view, method in methods)).backward()
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], USUAL.clip)
        optimizer.step()
        for view, method in methods:
            method.after_step(view, step, steps)
        scheduler.step()
    return distance(student, teacher, task) / whole
