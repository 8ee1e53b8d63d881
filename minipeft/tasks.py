"""The toy world: what the base learns from, and what it is adapted to.

An example reads

    reverse next : cabbed = efccbd .

instruction words, a colon, a word of six letters, an equals sign, the answer, a full stop. An instruction names an
operation on the places (`reverse`) and a symbol table (`next`: every letter becomes the one after it); the answer is
the operation, then the table. Each has two names, the words come in any order, and words like `please` mean nothing.

The base is pretrained on all pairs of eight operations and eight tables but six, HELD_OUT. So a task can be
  known                  the base has seen this pair
  a held-out pair        it has seen both parts, never together
  a new table            `violet`, or `new operation`, `riffle`: nothing in pretraining tells it
A downstream task is given without instruction words: finding out which task it is belongs to the delta.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minipeft.arguments import ANY, a_model, a_row_of_tokens, a_task, checked, got, whole_numbers

LENGTH = 6  # letters in a word
LETTERS = "abcdefghijklmnop"
PAD, BOS, SEP, EOS = 0, 1, 2, 3
IGNORE = -100  # a target that does not count, as torch's cross_entropy has it

OPERATIONS = {  # on letters (B, 6), what happens to the places
    "copy": lambda x: x,
    "reverse": lambda x: x.flip(1),
    "sort": lambda x: x.sort(1).values,
    "descend": lambda x: x.sort(1, descending=True).values,
    "left": lambda x: x.roll(-1, 1),
    "right": lambda x: x.roll(1, 1),
    "swap": lambda x: x.unflatten(1, (-1, 2)).flip(2).flatten(1),
    "halves": lambda x: x.roll(LENGTH // 2, 1),
    "riffle": lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1),  # never in pretraining
}
_letters = torch.arange(len(LETTERS))


def _shuffled(seed):
    return torch.randperm(len(LETTERS), generator=torch.Generator().manual_seed(seed))


TABLES = {  # (16,), what becomes of each letter
    "plain": _letters,
    "next": (_letters + 1) % 16,
    "previous": (_letters - 1) % 16,
    "plus5": (_letters + 5) % 16,
    "mirror": 15 - _letters,
    "red": _shuffled(1),
    "green": _shuffled(2),
    "blue": _shuffled(3),
    "violet": _shuffled(4),  # never in pretraining
}
SYNONYMS = {
    "copy": "keep", "reverse": "backwards", "sort": "ascend", "descend": "downwards", "left": "leftwards",
    "right": "rightwards", "swap": "pairs", "halves": "exchange", "plain": "unchanged", "next": "after",
    "previous": "before", "plus5": "jump", "mirror": "opposite", "red": "crimson", "green": "emerald", "blue": "azure",
}  # fmt: skip
FILLERS = ("please", "now", "then", "the", "and", "do", "it", "with")
UNSEEN = ("riffle", "violet")  # no instruction word exists for them
HELD_OUT = ("reverse+blue", "left+red", "descend+next", "swap+mirror", "halves+green", "sort+previous")
KNOWN_OPERATIONS = [o for o in OPERATIONS if o not in UNSEEN]
KNOWN_TABLES = [t for t in TABLES if t not in UNSEEN]

VOCABULARY = ("_", ":", "=", ".", *LETTERS, *(w for pair in SYNONYMS.items() for w in pair), *FILLERS)
ID = {word: i for i, word in enumerate(VOCABULARY)}
FIRST_LETTER = ID[LETTERS[0]]


def encode(text):
    """Text to tokens: `encode("reverse next : cabbed =")` is a tensor (T,). Words before the colon, letters after it.

    Raises ValueError for a word or letter the toy world does not have.
    """
    if not isinstance(text, str):
        cure = (
            "decode turns tokens into text" if isinstance(text, Tensor) else "one text at a time, such as ': cabbed ='"
        )
        raise TypeError(f"encode takes a text, got {got(text)}: {cure}")
    before, colon, after = text.partition(":")
    pieces = before.split() + [":"] * bool(colon) + [c for c in after if not c.isspace()]
    for piece in pieces:
        if piece not in ID:
            known = f"the small letters {LETTERS[0]} to {LETTERS[-1]}"
            known = known if len(piece) == 1 else ", ".join(VOCABULARY[20:])
            if not colon and set(piece) <= set(LETTERS):
                known = f"letters behind a colon, as in ': {piece} =', and before it {known}"
            raise ValueError(f"the toy world has no {piece!r}; it knows {known}")
    return torch.tensor([ID[piece] for piece in pieces], dtype=torch.long)


def decode(tokens):
    """Tokens (T,) to text, the inverse of `encode`; padding is left out.

    Raises TypeError or ValueError for what is not one row of tokens of the vocabulary.
    """
    words = [VOCABULARY[t] for t in a_row_of_tokens("decode", tokens, len(VOCABULARY)) if t != PAD]
    return " ".join("".join(w if w in LETTERS else f" {w} " for w in words).split())


def letters(word):
    """A word of six letters to (6,) indices of LETTERS. Raises ValueError for any other word."""
    if not isinstance(word, str) or len(word) != LENGTH or any(c not in LETTERS for c in word):
        raise ValueError(f"expected a word of {LENGTH} letters from {LETTERS[0]} to {LETTERS[-1]}, got {got(word)}")
    return torch.tensor([LETTERS.index(c) for c in word])


@dataclass
class Batch:
    """Examples, a row each.

    tokens: what the model reads: (B, T), or pictures (B, height, width) or (B, 3, height, width).
    targets: (B, T) with IGNORE where nothing is asked; (B,) if a row has one answer, its class.
    mask: (B, T), False at padding, or None.
    more: what else the model takes, {the name of the argument: value}, for all rows together.
    beside: what else it takes for each row, {the name of the argument: tensor (B, ...) or list of B}.
    whole: the rows are asked about each other, so a part of them would be asked something else.
    """

    tokens: Tensor
    targets: Tensor
    mask: Tensor | None = None
    more: dict = field(default_factory=dict)
    beside: dict = field(default_factory=dict)
    whole: bool = False

    def to(self, device):
        def moved(values):
            return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in values.items()}

        tokens, targets, mask = (t if t is None else t.to(device) for t in (self.tokens, self.targets, self.mask))
        return Batch(tokens, targets, mask, moved(self.more), moved(self.beside), self.whole)

    def logits(self, model):
        """What the model gives for the rows."""
        masked = {} if self.mask is None else {"mask": self.mask}
        return model(self.tokens, **self.beside, **self.more, **masked)


def rows(instruction, x, y):
    """A Batch of examples from instruction tokens (B, K), letters x and answers y (B, 6).

    The model is asked for the answer and the full stop.
    """
    mark = x.new_ones(len(x), 1)
    tokens = torch.cat([instruction, BOS * mark, x + FIRST_LETTER, SEP * mark, y + FIRST_LETTER, EOS * mark], dim=1)
    targets = tokens[:, 1:].clone()
    targets[:, : -LENGTH - 1] = IGNORE
    return Batch(tokens[:, :-1], targets)


@dataclass(frozen=True)
class Task:
    """One operation and one table: `Task("reverse", "blue")`, or `task("reverse+blue")`.

    `instructed`: the examples begin with the two instruction words (only for what the base has words for).
    """

    operation: str
    table: str
    instructed: bool = False

    def __post_init__(self):
        if not isinstance(self.instructed, bool):
            raise ValueError(
                f"instructed must be True or False, got {got(self.instructed)}: write task('reverse+blue')"
            )
        if self.operation not in list(OPERATIONS) or self.table not in list(TABLES):
            raise ValueError(
                f"no task {str(self).rstrip('+')}: an operation ({', '.join(OPERATIONS)}), "
                f"a plus, a table ({', '.join(TABLES)}), like reverse+blue"
            )
        if self.instructed and {self.operation, self.table} & set(UNSEEN):
            raise ValueError(f"{self} cannot be instructed: the base has no word for it")

    def __str__(self):
        return f"{self.operation}+{self.table}"

    @property
    def kind(self):
        """What the base knows of it: "known", "held-out pair", "new table" or "new operation"."""
        if self.table in UNSEEN:
            return "new table"
        if self.operation in UNSEEN:
            return "new operation"
        return "held-out pair" if str(self) in HELD_OUT else "known"

    def answer(self, x):
        """Letters (B, 6), numbers from 0 to 15, to the right answers (B, 6)."""
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != LENGTH or not whole_numbers(x):
            raise ValueError(f"answer takes letters (B, {LENGTH}), got {got(x)}: write answer(letters('cabbed')[None])")
        if x.numel() and not 0 <= x.min() <= x.max() < len(LETTERS):
            raise ValueError(
                f"letters are numbers from 0 to {len(LETTERS) - 1}, got {int(x.min())} to {int(x.max())}: "
                "of tokens subtract FIRST_LETTER"
            )
        return TABLES[self.table][OPERATIONS[self.operation](x)]

    def prompt(self, word):
        """The example up to the equals sign, as text."""
        letters(word)
        return f"{self.operation} {self.table} : {word} =" if self.instructed else f": {word} ="

    def batch(self, size, generator):
        """`size` new examples, drawn with `generator`."""
        x = torch.randint(len(LETTERS), (size, LENGTH), generator=generator)
        words = [ID[self.operation], ID[self.table]] if self.instructed else []
        return rows(torch.tensor(words, dtype=torch.long).expand(size, -1), x, self.answer(x))


def task(name, instructed=False):
    """`task("reverse+blue")`. Raises ValueError, with what exists, for an unknown name."""
    if not isinstance(name, str):
        cure = "it is a task already" if isinstance(name, Task) else "write task('reverse+blue')"
        raise TypeError(f"task takes a name, got {got(name)}: {cure}")
    operation, _, table = name.partition("+")
    return Task(operation, table, instructed)


@dataclass(frozen=True)
class Few:
    """`size` examples of a task and no others, drawn with `seed`: what there is to learn from when data are few."""

    task: Task
    size: int
    seed: int = 0

    def __post_init__(self):
        a_task("Few", self.task)
        object.__setattr__(self, "size", checked("Few: size", self.size, int))
        object.__setattr__(self, "seed", checked("Few: seed", self.seed, int, ANY))

    def __str__(self):
        return f"{self.size} examples of {self.task}"

    def batch(self, size, generator):
        """`size` of the examples, each as often as another (give or take one), in an order drawn with `generator`."""
        return shuffled(self.every(), size, generator)

    def every(self):
        """All of them, as one Batch."""
        return self.task.batch(self.size, torch.Generator().manual_seed(self.seed))


def shuffled(batch, size, generator):
    """`size` rows of a finite batch, each as often as another (give or take one), in an order of the generator."""
    rounds = -(-size // len(batch.tokens))
    order = torch.cat([torch.randperm(len(batch.tokens), generator=generator) for _ in range(rounds)])[:size]
    return rows_of(batch, order)


def rows_of(batch, index):
    """These rows of a Batch. index: a slice or a tensor of their numbers."""

    def some(values):
        if isinstance(values, Tensor):
            return values[index]
        return [values[i] for i in torch.arange(len(values))[index].tolist()]

    mask = None if batch.mask is None else batch.mask[index]
    beside = {name: some(values) for name, values in batch.beside.items()}
    return Batch(batch.tokens[index], batch.targets[index], mask, batch.more, beside, batch.whole)


@dataclass(frozen=True)
class Together:
    """Several named tasks in one batch, {name: task}, so many rows of each: what `mixing.MultiTask` is trained on."""

    goals: tuple[tuple[str, Task | Few], ...]

    def __post_init__(self):
        goals = tuple(self.goals.items()) if isinstance(self.goals, dict) else self.goals
        if not isinstance(goals, tuple) or not goals:
            raise TypeError(f"Together takes named tasks, {{'blue': task('copy+blue')}}, got {got(self.goals)}")
        for _, goal in goals:
            a_task("Together", goal)
        object.__setattr__(self, "goals", goals)

    def __str__(self):
        return ", ".join(str(goal) for _, goal in self.goals)

    def batch(self, size, generator):
        """`size` examples, divided among the tasks; the argument `names` of the model tells whose each row is."""
        share, more = divmod(size, len(self.goals))
        if not share:
            raise ValueError(f"a batch of {size} has no example for each of {len(self.goals)} tasks; make it larger")
        sizes = [share + (i < more) for i in range(len(self.goals))]
        parts = [goal.batch(n, generator) for (_, goal), n in zip(self.goals, sizes, strict=True)]
        names = [name for (name, _), n in zip(self.goals, sizes, strict=True) for _ in range(n)]
        tokens, targets = (torch.cat([getattr(part, what) for part in parts]) for what in ("tokens", "targets"))
        return Batch(tokens, targets, beside={"names": names})


@dataclass(frozen=True)
class Mixture:
    """What the base is pretrained on: instructed examples of all pairs but the held-out ones, or of those `only`.

    The instruction is a bag of 2 to 5 words in any order: one for the operation, one for the table, either synonym,
    repetitions and fillers around them; a `copy` or a `plain` that would change nothing is left unsaid half the time.
    """

    only: tuple[str, ...] = ()

    def __post_init__(self):
        if isinstance(self.only, str | Task):
            raise TypeError(f"only takes a tuple of names: write Mixture(({str(self.only)!r},))")
        if not isinstance(self.only, Iterable):
            raise TypeError(f"only takes a tuple of names, got {got(self.only)}")
        names = tuple(map(str, self.only))
        if strange := [name for name in names if name not in self.with_words()]:
            raise ValueError(f"the mixture has no {strange[0]}: it has instructions for {' '.join(self.with_words())}")
        object.__setattr__(self, "only", names)

    def __str__(self):
        return " ".join(self.only) or "pretraining mixture"

    @staticmethod
    def with_words():
        return [f"{o}+{t}" for o in KNOWN_OPERATIONS for t in KNOWN_TABLES]

    def pairs(self):
        return [p for p in self.with_words() if (p in self.only if self.only else p not in HELD_OUT)]

    def batch(self, size, generator):
        """`size` new examples, drawn with `generator`."""
        pairs = [p.split("+") for p in self.pairs()]
        known = torch.tensor([[KNOWN_OPERATIONS.index(o), KNOWN_TABLES.index(t)] for o, t in pairs])
        o, t = known[torch.randint(len(pairs), (size,), generator=generator)].T  # (B,), (B,)
        x = torch.randint(len(LETTERS), (size, LENGTH), generator=generator)
        moved = torch.stack([OPERATIONS[name](x) for name in KNOWN_OPERATIONS])[o, torch.arange(size)]  # (B, 6)
        y = torch.stack([TABLES[name] for name in KNOWN_TABLES])[t[:, None], moved]
        return rows(instructions(o, t, generator), x, y)


def instructions(o, t, generator):
    """Bags of words (B, K) for operations o and tables t (B,); K is drawn once, the same for all rows."""

    def random(high, *shape):
        return torch.randint(high, shape, generator=generator)

    K, size = 2 + int(random(4, 1)), len(o)
    names = [*KNOWN_OPERATIONS, *KNOWN_TABLES]
    words = torch.tensor([[ID[name], ID[SYNONYMS[name]]] for name in names])  # (16, 2)
    which = torch.cat([torch.tensor([[0, 1]]).expand(size, 2), random(2, size, K - 2)], dim=1)  # operation or table
    concept = torch.stack([o, len(KNOWN_OPERATIONS) + t], dim=1).gather(1, which)  # (B, K)
    changes_nothing = (concept == names.index("copy")) | (concept == names.index("plain"))
    unsaid = changes_nothing & (random(2, size, 2).gather(1, which) > 0)
    unsaid[:, 2:] |= random(2, size, K - 2) > 0
    fillers = ID[FILLERS[0]] + random(len(FILLERS), size, K)
    bag = torch.where(unsaid, fillers, words[concept, random(2, size, K)])
    return bag.gather(1, torch.rand(size, K, generator=generator).argsort(1))


def answer(model, text):
    """What a model continues `text` with, up to the full stop."""
    a_model("answer", model)
    tokens = encode(text)[None].to(next(model.parameters()).device)
    return decode(model.generate(tokens, LENGTH + 1, stop=EOS)[0]).removesuffix(".").strip()


def examples(goal, number=3):
    """A few words and their right answers, as text."""
    a_task("examples", goal)
    batch = goal.batch(number, torch.Generator().manual_seed(7))
    answers = [decode(row[row != IGNORE]).removesuffix(".").strip() for row in batch.targets]
    return [decode(row[:-LENGTH]) for row in batch.tokens], answers
