"""What an exercise is: a reference, stubs in it, observations that tell right from wrong, and a bank of known mistakes.

Everything about one exercise stands in one file of `bank/`:

    lora = Exercise("lora", "methods/lora.py", stubs=("LoRALinear.forward", ...), ...)

    @lora.observe("update", "The update s·B A x is not the expected one.")
    def update(impl): ...                 # impl: the module, the student's or the reference's; returns numbers

    lora.mistake("no scale", (("self.scale * h", "h"),), what=..., question=..., hint=..., seen=...)
    lora.right("einsum", ((..., ...),))
    lora.variant("square root", ((..., ...),), "the scale is α/√r")

An observation never says what is right: the same function observes the student's module and the reference, and the two
results are compared. Mistakes, right variants and variants are edits of the reference's text.
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

import minipeft.classroom.bank as bank
from minipeft.classroom.engine.source import functions

PACKAGE = Path(__file__).resolve().parents[2]


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
    forms: other edits that are the same mistake, made elsewhere or otherwise.
    any_value: names of observations in which every wrong value is this mistake's, because only its sign, order or
    scale is the point.
    """

    id: str
    edits: tuple[tuple[str, str], ...]
    what: str
    question: str
    hint: str
    seen: str = "classic"
    forms: tuple[tuple[tuple[str, str], ...], ...] = ()
    any_value: tuple[str, ...] = ()

    @property
    def every_form(self):
        return (self.edits, *self.forms)


@dataclass(frozen=True)
class Right:
    """Another way to write it that must pass."""

    id: str
    edits: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Variant:
    """A rule of a teacher's own, as edits of the reference, its docstrings included."""

    id: str
    edits: tuple[tuple[str, str], ...]
    rule: str


@dataclass(eq=False)
class Exercise:
    """
    name: what `start` and `check` call it; also the name of its file in `bank/`.
    of: the reference, a path below the package.
    stubs: qualified names of functions, methods and constants that are emptied.
    minutes, difficulty: for someone who has read the paper; 1 (warm up) to 3 (hard).
    why: what one understands afterwards. read: where to look. lesson: the number of the lesson.
    hidden: names that are emptied too, because they would tell, but are not the student's to write.
    """

    name: str
    of: str
    stubs: tuple[str, ...]
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
    variants: list[Variant] = field(default_factory=list)

    def observe(self, group, says):
        """Decorates a function (impl) → numbers, tensors, text, or lists and dictionaries of them."""

        def keep(look):
            self.observations.append(Observation(look.__name__.replace("_", " ").strip(), group, says, look))
            return look

        return keep

    def mistake(self, id, edits, what, question, hint, seen="classic", forms=(), any_value=()):
        self.mistakes.append(Mistake(id, edits, what, question, hint, seen, forms, any_value))

    def right(self, id, edits):
        self.rights.append(Right(id, edits))

    def variant(self, id, edits, rule):
        self.variants.append(Variant(id, edits, rule))

    @property
    def groups(self):
        """Names of the groups of observations, in order: a group is worth a point."""
        return list(dict.fromkeys(o.group for o in self.observations))

    def chosen(self, seed):
        """The variants that a teacher's seed chooses, none for None; an exercise without any stays as it is."""
        if seed is None or not (seed_of(seed) and self.variants):
            return []
        compatible = []
        for number in range(1, len(self.variants) + 1):
            for some in itertools.combinations(self.variants, number):
                try:
                    edited(self.plain(), [e for variant in some for e in variant.edits])
                except ValueError:
                    continue
                compatible.append(list(some))
        return random.Random(f"{self.name} {seed}").choice(compatible)

    @cache  # noqa: B019
    def tree(self, seed=None):
        return ast.parse(self.reference(seed))

    def touched(self, edits, seed=None):
        """The stubs that these edits change."""
        text, found = self.reference(seed), set()
        spans = spans_of(text, self.stubs)
        for find, replace in edits:
            same = len(os.path.commonprefix([find, replace]))  # noqa: RUF071
            rest = len(os.path.commonprefix([find[same:][::-1], replace[same:][::-1]]))  # noqa: RUF071
            first = text.find(find) + same
            last = first + len(find) - same - rest
            first, last = (text.count("\n", 0, at) + 1 for at in (first, max(first, last - 1)))
            found |= {stub for stub, (a, b) in spans.items() if a <= last and first <= b}
        return found

    @cache  # noqa: B019
    def plain(self):
        return (PACKAGE / self.of).read_text(encoding="utf-8")

    @cache  # noqa: B019
    def reference(self, seed=None):
        """The text of the reference, under the variants of a seed."""
        return edited(self.plain(), [e for variant in self.chosen(seed) for e in variant.edits])


def seed_of(text):
    """A teacher's seed, if the first line of a started file can hold it as it is. ValueError says what is wrong.

    Every command asks here: a seed that a file tells otherwise than the teacher would choose other variants.
    """
    text = str(text)
    if not text.strip():
        raise ValueError("a variant seed is a word or a number of your own, such as spring-7; this one is empty")
    if not text.isprintable() or set(text) & set("()") or text != " ".join(text.split()):
        raise ValueError(f"a variant seed has no brackets, tabs, line ends or spaces at its ends, got {text!r}")
    if len(text) > 40:
        raise ValueError(f"a variant seed has at most 40 characters, got {len(text)}")
    return text


@cache
def spans_of(text, stubs):
    """{stub: (first line, last line)}"""
    found = functions(ast.parse(text))
    return {stub: (found[stub][1].lineno, found[stub][1].end_lineno) for stub in stubs}


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
    for name in bank.COURSE:
        found[name] = importlib.import_module(f"{bank.__name__}.{name}").exercise
    left = {m.name for m in pkgutil.iter_modules(bank.__path__)} - set(found)
    assert not left, f"not in the course: {left}"
    return found


def get_exercise(name):
    """An exercise by its name. ValueError for one that there is not."""
    if name not in exercises():
        raise ValueError(f"there is no exercise {name!r}; there are: {', '.join(exercises())}")
    return exercises()[name]
