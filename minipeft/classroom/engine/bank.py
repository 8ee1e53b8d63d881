"""The bank of an exercise: known mistakes, right solutions and variants, read from its `mistakes.md`.

Each is a heading with lines that begin with "- " below it, and diff blocks (`diffs`). CONTRIBUTING.md shows one.
"""

import re
from dataclasses import dataclass

from minipeft.classroom.engine.diffs import Hunk, diff


@dataclass(frozen=True)
class Mistake:
    """A known mistake.

    diffs: the edits of the reference that make it: one, or several forms of the same mistake.
    what: completes "This looks like:". question: leads towards it. hint: what to think about, never the solution.
    seen: where it was seen in public.
    any_value: observations in which every wrong value is this mistake's, because only a sign, an order or a scale is
    the point.
    """

    id: str
    diffs: tuple[tuple[Hunk, ...], ...]
    what: str
    question: str
    hint: str
    seen: str = ""
    any_value: tuple[str, ...] = ()


@dataclass(frozen=True)
class Right:
    """Another way to write it that has to pass."""

    id: str
    diffs: tuple[tuple[Hunk, ...], ...]


@dataclass(frozen=True)
class Variant:
    """A teacher's own rule, as an edit of the reference, its docstrings included."""

    id: str
    diffs: tuple[tuple[Hunk, ...], ...]
    rule: str


TOLD = {"looks like": "what", "ask": "question", "hint": "hint"}
MAY_BE_TOLD = {"seen": "seen", "any value": "any_value"}
SECTIONS = {  # heading: what is made of what stands there, the lines that it needs, the lines that it may have
    "Mistakes": (Mistake, TOLD, MAY_BE_TOLD),
    "Right solutions": (Right, {}, {}),
    "Variants": (Variant, {"rule": "rule"}, {}),
}


def read(path):
    """{section: [Mistake, Right or Variant]} of a `mistakes.md`. ValueError says what is wrong with it, and where."""
    found = {section: [] for section in SECTIONS}
    for section, number, id, body in entries(path.read_text(encoding="utf-8")):
        try:
            found[section].append(entry(section, id, body))
        except ValueError as error:
            raise ValueError(f"{path.parent.name}/{path.name}, line {number}, {id!r}: {error}") from None
    for section, those in found.items():
        ids = [one.id for one in those]
        if twice := {id for id in ids if ids.count(id) > 1}:
            raise ValueError(f"{path.parent.name}/{path.name}: {section} has {', '.join(sorted(twice))} twice")
    return found


def entries(text):
    """(section, line number, heading, what stands below it) of every heading of the third level."""
    section = None
    parts = re.split(r"^(##+) (.+)$", text, flags=re.MULTILINE)
    number = 1 + parts[0].count("\n")
    for level, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if level == "##":
            section = title.strip()
            if section not in SECTIONS:
                raise ValueError(f"line {number}: there is no section {section!r}; there are: {', '.join(SECTIONS)}")
        else:
            yield section, number, title.strip(), body
        number += body.count("\n")


def entry(section, id, body):
    kind, needed, more = SECTIONS[section]
    text, *blocks = re.split(r"^```diff\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)
    blocks, between = blocks[0::2], [text, *blocks[1::2]]
    lines = dict(re.findall(r"^- ([a-z ]+): (.+(?:\n  .+)*)", "\n".join(between), flags=re.MULTILINE))
    if absent := [name for name in needed if name not in lines]:
        raise ValueError(f'a line "- {absent[0]}: …" is missing')
    if strange := [name for name in lines if name not in needed | more]:
        there = ", ".join(needed | more) or "only diff blocks"
        raise ValueError(f'"- {strange[0]}:" is not known here; there are: {there}')
    if not blocks:
        raise ValueError("a block ```diff is missing")
    told = {field: " ".join(lines[name].split()) for name, field in (needed | more).items() if name in lines}
    if "any_value" in told:
        told["any_value"] = tuple(name.strip() for name in told["any_value"].split(","))
    return kind(id, tuple(map(diff, blocks)), **told)
