"""What an exercise is: a reference, stubs in it, observations that tell right from wrong, and a bank of known mistakes.

Each is a folder of `minipeft/exercises`:

    exercise.toml     title, minutes, what to read, the reference and its stubs
    observations.py   functions that look at a module, the student's or the reference's
    mistakes.md       known mistakes, right solutions and variants, as edits of the reference

An observation never says what is right: the same function observes the student's module and the reference, and the two
results are compared.
"""

import ast
import importlib
import itertools
import random
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minipeft.classroom.engine import bank, diffs
from minipeft.classroom.engine.observation import Observation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(__file__).resolve().parents[2]
FOLDER = PACKAGE / "exercises"


@dataclass(frozen=True, eq=False)
class Exercise:
    """
    name: what `start` and `check` call it, and its folder.
    reference_file: a path below the package.
    stubs: qualified names of functions, methods and constants that are emptied.
    minutes: to read the method's file and to write the bodies, after the lesson. difficulty: 1 (warm-up) to 3 (hard).
    why: what one understands afterwards. read: where to look. lesson: the number of the lesson.
    hidden: names that are emptied too, because they would tell, but are not the student's to write.
    """

    name: str
    title: str
    minutes: int
    difficulty: int
    why: str
    read: str
    reference_file: str
    stubs: tuple[str, ...]
    observations: tuple[Observation, ...]
    mistakes: tuple[bank.Mistake, ...]
    rights: tuple[bank.Right, ...]
    variants: tuple[bank.Variant, ...]
    lesson: str = ""
    hidden: tuple[str, ...] = ()

    @property
    def folder(self):
        return FOLDER / self.name

    @property
    def is_sheet(self):
        """Is its reference a sheet of questions of its own, and no method's file that the course runs on?"""
        return self.reference_file.startswith("exercises/")

    @property
    def groups(self):
        """Names of the groups of observations, in order: a group is worth a point."""
        return list(dict.fromkeys(o.group for o in self.observations))

    def chosen(self, seed):
        """The variants that a teacher's seed chooses, none for None; an exercise without any stays as it is."""
        if seed is None or not (seed_of(seed) and self.variants):
            return []
        return random.Random(f"{self.name} {seed}").choice(self.compatible())

    @cache  # noqa: B019
    def compatible(self):
        """Every choice of variants that do not change the same lines."""
        found = []
        for number in range(1, len(self.variants) + 1):
            for some in itertools.combinations(self.variants, number):
                try:
                    diffs.edited(self.plain(), [hunk for variant in some for hunk in variant.diffs[0]])
                except ValueError:
                    continue
                found.append(list(some))
        return found

    @cache  # noqa: B019
    def plain(self):
        return (PACKAGE / self.reference_file).read_text(encoding="utf-8")

    @cache  # noqa: B019
    def reference(self, seed=None):
        """The text of the reference, under the variants that a seed chooses."""
        return diffs.edited(self.plain(), [hunk for variant in self.chosen(seed) for hunk in variant.diffs[0]])

    @cache  # noqa: B019
    def tree(self, seed=None):
        return ast.parse(self.reference(seed))

    @cache  # noqa: B019
    def with_edits(self, hunks, seed=None):
        """The reference's text with the edits of a mistake, or None where a variant leaves no place for them."""
        try:
            return diffs.edited(self.reference(seed), hunks)
        except ValueError:
            if seed is None:
                raise
            return None


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
def exercises():
    """Every exercise, {name: Exercise}, in the order in which a course takes them."""
    course = tomllib.loads((FOLDER / "course.toml").read_text(encoding="utf-8"))
    return {name: load(name) for name in course["order"]}


def load(name):
    """An exercise from its folder. ValueError says what is wrong with it, and where."""
    folder = FOLDER / name
    card = tomllib.loads((folder / "exercise.toml").read_text(encoding="utf-8"))
    found = bank.read(folder / "mistakes.md")
    observations = importlib.import_module(f"minipeft.exercises.{name}.observations")
    known = {o.name for o in observations.observe}
    for mistake in found["Mistakes"]:
        if strange := [each for each in mistake.any_value if each not in known]:
            raise ValueError(f"{name}/mistakes.md, {mistake.id!r}: there is no observation {strange[0]!r}")
    return Exercise(
        name,
        **card | {key: tuple(card[key]) for key in ("stubs", "hidden") if key in card},
        observations=tuple(observations.observe),
        mistakes=tuple(found["Mistakes"]),
        rights=tuple(found["Right solutions"]),
        variants=tuple(found["Variants"]),
    )


def get_exercise(name):
    """An exercise by its name. ValueError for one that there is not."""
    if name not in exercises():
        raise ValueError(f"there is no exercise {name!r}; there are: {', '.join(exercises())}")
    return exercises()[name]
