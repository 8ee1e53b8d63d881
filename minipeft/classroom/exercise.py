"""What an exercise is: a reference, holes in it, observations that tell right from wrong, and a bank of known mistakes.

Everything about one exercise stands in one file of `bank/`:

    lora = Exercise("lora", "methods/lora.py", holes=("LoRALinear.forward", ...), ...)

    @lora.observe("update", "The update s·B A x is not the expected one.")
    def update(impl): ...                 # impl: the module, the student's or the reference's; returns numbers

    lora.mistake("no scale", (("self.scale * h", "h"),), what=..., question=..., hint=..., seen=...)
    lora.right("einsum", ((..., ...),))
    lora.house("square root", ((..., ...),), "the scale is α/√r")

An observation never says what is right: the same function observes the student's module and the reference, and the two
results are compared. Mistakes, right variants and house rules are edits of the reference's text.
"""

import ast
import importlib
import itertools
import os
import pkgutil
import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import minipeft.classroom.bank as shelf
from minipeft.classroom.source import functions

HOUSE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Observation:
    """One thing to look at. `says` is a sentence that tells what a difference here means."""

    name: str
    group: str
    says: str
    look: object


@dataclass(frozen=True)
class Mistake:
    """A known mistake, as edits (find, replace) of the reference.

    what: completes "this looks like:". question: leads towards it. hint: what to think about, never the solution.
    seen: where it was seen in public, or "classic".
    """

    id: str
    edits: tuple[tuple[str, str], ...]
    what: str
    question: str
    hint: str
    seen: str = "classic"


@dataclass(frozen=True)
class Right:
    """Another way to write it that must pass."""

    id: str
    edits: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class House:
    """A rule of a teacher's own, as edits of the reference, its docstrings included."""

    id: str
    edits: tuple[tuple[str, str], ...]
    rule: str


@dataclass(eq=False)
class Exercise:
    """
    name: what `start` and `check` call it; also the name of its file in `bank/`.
    of: the reference, a path below the package.
    holes: qualified names of functions, methods and constants that are emptied.
    minutes, difficulty: for someone who has read the paper; 1 (warm up) to 3 (hard).
    why: what one understands afterwards. read: where to look. lesson: the number of the lesson.
    hidden: names that are emptied too, because they would tell, but are not the student's to write.
    """

    name: str
    of: str
    holes: tuple[str, ...]
    title: str
    minutes: int
    difficulty: int
    why: str
    read: str
    lesson: str = ""
    hidden: tuple[str, ...] = ()
    observations: list[Observation] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    rights: list[Right] = field(default_factory=list)
    houses: list[House] = field(default_factory=list)

    def observe(self, group, says):
        """Decorates a function (impl) → numbers, tensors, text, or lists and dictionaries of them."""

        def keep(look):
            self.observations.append(Observation(look.__name__.replace("_", " ").strip(), group, says, look))
            return look

        return keep

    def mistake(self, id, edits, what, question, hint, seen="classic"):
        self.mistakes.append(Mistake(id, edits, what, question, hint, seen))

    def right(self, id, edits):
        self.rights.append(Right(id, edits))

    def house(self, id, edits, rule):
        self.houses.append(House(id, edits, rule))

    @property
    def groups(self):
        """Names of the groups of observations, in order: a group is worth a point."""
        return list(dict.fromkeys(o.group for o in self.observations))

    def rules(self, seed):
        """The house rules that a teacher's seed chooses, none for None; an exercise without any stays as it is."""
        if seed is None or not self.houses:
            return []
        compatible = []
        for number in range(1, len(self.houses) + 1):
            for some in itertools.combinations(self.houses, number):
                try:
                    edited(self.plain(), [e for house in some for e in house.edits])
                except ValueError:
                    continue
                compatible.append(list(some))
        return random.Random(f"{self.name} {seed}").choice(compatible)

    @cache  # noqa: B019
    def tree(self, seed=None):
        return ast.parse(self.reference(seed))

    def touched(self, mistake, seed=None):
        """The holes that a mistake changes."""
        text, found = self.reference(seed), set()
        spans = spans_of(text, self.holes)
        for find, replace in mistake.edits:
            same = len(os.path.commonprefix([find, replace]))  # noqa: RUF071
            rest = len(os.path.commonprefix([find[same:][::-1], replace[same:][::-1]]))  # noqa: RUF071
            first = text.find(find) + same
            last = first + len(find) - same - rest
            first, last = (text.count("\n", 0, at) + 1 for at in (first, max(first, last - 1)))
            found |= {hole for hole, (a, b) in spans.items() if a <= last and first <= b}
        return found

    @cache  # noqa: B019
    def plain(self):
        return (HOUSE / self.of).read_text(encoding="utf-8")

    @cache  # noqa: B019
    def reference(self, seed=None):
        """The text of the reference, under the house rules of a seed."""
        return edited(self.plain(), [e for house in self.rules(seed) for e in house.edits])


@cache
def spans_of(text, holes):
    """{hole: (first line, last line)}"""
    found = functions(ast.parse(text))
    return {hole: (found[hole][1].lineno, found[hole][1].end_lineno) for hole in holes}


def edited(text, edits):
    """The text with each `find` replaced; ValueError unless it occurs exactly once, so that a bank breaks loudly."""
    for find, replace in edits:
        if text.count(find) != 1:
            raise ValueError(f"{find!r} occurs {text.count(find)} times in the reference, expected once")
        text = text.replace(find, replace)
    return text


@cache
def exercises():
    """Every exercise, {name: Exercise}, in the order in which a course would take them."""
    found = {}
    for name in shelf.COURSE:
        found[name] = importlib.import_module(f"{shelf.__name__}.{name}").exercise
    left = {m.name for m in pkgutil.iter_modules(shelf.__path__)} - set(found)
    assert not left, f"not in the course: {left}"
    return found


def get(name):
    """An exercise by its name. ValueError for one that there is not."""
    if name not in exercises():
        raise ValueError(f"there is no exercise {name!r}; there are: {', '.join(exercises())}")
    return exercises()[name]
