"""Edits of a text as diff blocks, each scoped to one body:

    @ LoRALinear.delta
    - return self.scale * self.B @ self.A  # (out, in)
    + return self.B @ self.A

After `@` stands the function, method, class or constant that holds the lines, or the name of the file. Lines with `-`
are replaced by those with `+`; lines with neither only tell the place. They are whole lines, and have to stand there
once, one below the other. How far all of them are indented does not matter.
"""

import ast
import difflib
import re
import textwrap
from dataclasses import dataclass
from functools import cache

from minipeft.classroom.engine.source import functions


@dataclass(frozen=True)
class Hunk:
    """Lines of one body, and what they become."""

    scope: str
    old: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def kept(self):
        """How many lines at the beginning only tell the place, and how many at the end."""
        before = after = 0
        least = min(len(self.old), len(self.new))
        while before < least and self.old[before] == self.new[before]:
            before += 1
        while after < least - before and self.old[-1 - after] == self.new[-1 - after]:
            after += 1
        return before, after


def diff(block):
    """The hunks of a diff block. ValueError if it cannot be read as one."""
    first, *parts = re.split(r"^@", textwrap.dedent(block).strip("\n"), flags=re.MULTILINE)
    if first or not parts:
        raise ValueError('a diff begins with the body that it changes: a line such as "@ LoRALinear.delta"')
    return tuple(hunk(*part.split("\n", 1)) if "\n" in part else hunk(part, "") for part in parts)


def hunk(scope, body):
    lines = [(line[:1] or " ", line[1:]) for line in body.rstrip().split("\n")]
    if strange := [mark + text for mark, text in lines if mark not in "-+ "]:
        raise ValueError(f'a line of a diff begins with "-", "+" or a space, got {strange[0]!r}')
    texts = textwrap.dedent("\n".join(text for _, text in lines)).split("\n")
    old, new = (
        tuple(text.rstrip() for (mark, _), text in zip(lines, texts, strict=True) if mark in marks)
        for marks in ("- ", "+ ")
    )
    if not old or not old[0]:
        raise ValueError(f"the diff of {scope.strip()} does not tell the place: begin with a line that stands there")
    if old == new:
        raise ValueError(f'the diff of {scope.strip()} changes nothing: mark lines with "-" and "+"')
    return Hunk(scope.strip(), old, new)


def edited(text, hunks):
    """The text with every hunk applied. ValueError where one has no place, or two have the same."""
    lines, free = text.splitlines(), len(text.splitlines()) + 1
    for first, last, new in sorted((change(text, hunk) for hunk in hunks), reverse=True):
        if last > free:
            raise ValueError("two hunks change the same lines")
        lines[first:last], free = new, first
    return "\n".join(lines) + "\n"


def change(text, hunk):
    """(first line that is replaced, the line after the last one, lines that stand there instead), counted from 0."""
    start, pad = place(text, hunk)
    before, after = hunk.kept
    new = hunk.new[before : len(hunk.new) - after]
    return start + before, start + len(hunk.old) - after, [(pad + line).rstrip() for line in new]


@cache
def place(text, hunk):
    """(line where the hunk begins, what it is further indented by), or ValueError unless there is exactly one."""
    lines, (first, last) = text.splitlines(), span(text, hunk.scope)
    found = []
    for i in range(first, last - len(hunk.old) + 1):
        pad = " " * max(0, indent(lines[i]) - indent(hunk.old[0]))
        if [(pad + line).rstrip() for line in hunk.old] == lines[i : i + len(hunk.old)]:
            found.append((i, pad))
    if len(found) != 1:
        raise ValueError(f"{hunk.scope}: {missing(hunk, lines[first:last]) if not found else several(hunk, found)}")
    return found[0]


def missing(hunk, body):
    there = [line.strip() for line in body]
    absent = [line for line in hunk.old if line.strip() not in there]
    if not absent:
        return f"the lines from `{hunk.old[0].strip()}` on do not stand there in this order"
    near = difflib.get_close_matches(absent[0].strip(), there, 1, 0.5)
    return f"`{absent[0].strip()}` does not stand there" + (f"; did you mean `{near[0]}`?" if near else "")


def several(hunk, found):
    lines = ", ".join(str(i + 1) for i, _ in found)
    return f"`{hunk.old[0].strip()}` stands there {len(found)} times, in lines {lines}; add a line that tells which"


def indent(line):
    return len(line) - len(line.lstrip())


@cache
def spans(text):
    """{name: (first line, line after the last)} of everything that has a name, counted from 0, decorators included."""
    found = {}
    for name, (_, node) in functions(ast.parse(text)).items():
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        found[name] = first - 1, node.end_lineno
    return found


def span(text, scope):
    if scope.endswith(".py"):
        return 0, len(text.splitlines())
    if scope not in spans(text):
        near = difflib.get_close_matches(scope, spans(text), 1)
        raise ValueError(f"the file has no {scope!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return spans(text)[scope]


def touched(text, hunks, names):
    """Those of the named bodies in which a line changes."""
    found = set()
    for one in hunks:
        if one.scope in names:
            found.add(one.scope)
            continue
        first, last, _ = change(text, one)
        found |= {
            name for name in names if spans(text)[name][0] < max(last, first + 1) and first < spans(text)[name][1]
        }
    return found
