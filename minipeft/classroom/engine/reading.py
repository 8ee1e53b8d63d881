"""Reading what a student hands in: the text of a file or of a notebook's code cells, its tree, and what stands in it.

A notebook's text has a comment between its cells, so that an error can name the cell. A cell that is not Python stays
in the text as a comment that says why; `parsed` lists these cells as the `left_out` of a tree.
"""

import ast
import json
import re
import warnings
from dataclasses import dataclass

NO_TEXT = {0xFEFF: None, 0: "?"}  # the mark of the byte order, and a byte that Python cannot read
RUNS_PYTHON = {"time", "timeit", "capture", "prun"}  # cell magics whose cell is Python that counts
# a line that only a notebook understands: %matplotlib inline, !ls, x = !ls, LoRALinear?, ?LoRALinear
COMMAND = re.compile(r"(\s*)([%!?]|[\w., ]+=\s*[%!]|[\w.]+\?\??\s*(#.*)?$)")
CELL = re.compile(r"# -- code cell (\d+)(?:, left out: (.*))? --$")


class Unreadable(ValueError):
    """The text is not Python; the message tells the line."""


@dataclass
class LeftOut:
    """A cell of a notebook that is not Python. line: where it stands in the text; source: what is in it."""

    number: int
    why: str
    line: int
    source: str

    def holds(self, stub):
        owner, _, name = stub.rpartition(".")
        found = re.search(rf"^\s*(async\s+)?(def\s+|class\s+)?{name}\s*[(:=]", self.source, re.MULTILINE)
        return bool(found) and (not owner or re.search(rf"^\s*class\s+{owner}\b", self.source, re.MULTILINE))


def text_of(path):
    """The Python text of a file, or of the code cells of a notebook. Unreadable if it is neither."""
    try:
        raw = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable(f"{path.name} is not a text file in UTF-8") from None
    if path.suffix != ".ipynb":
        return raw
    try:
        cells = [c for c in json.loads(raw)["cells"] if c["cell_type"] == "code"]
        sources = ["".join(c["source"]).translate(NO_TEXT).encode(errors="replace").decode() for c in cells]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Unreadable(f"{path.name} is not a notebook") from None
    return "\n".join(of_cell(number, cell) for number, cell in enumerate(sources, 1))


def parse(text):
    """The tree of a text, without Python's warnings about how it is written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def of_cell(number, text):
    """A cell under a comment with its number, the notebook's own commands replaced by `pass`; or all of it commented.

    The first cell has no such comment: its first line may be the one that names the exercise.
    """
    lines, magic = text.split("\n"), re.match(r"\s*%%(\w+)", text)
    why = f"it begins with %%{magic[1]}" if magic and magic[1] not in RUNS_PYTHON else None
    while not why:
        try:
            parse("\n".join(lines))
            return "\n".join([f"# -- code cell {number} --", *lines][number == 1 :])
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            at = (getattr(error, "lineno", None) or 0) - 1  # a command stops Python in its own line
            command = COMMAND.match(lines[at]) if 0 <= at < len(lines) else None
            if not command:
                why = said(error)
                break
            last = at
            while lines[last].endswith("\\") and last + 1 < len(lines):
                last += 1
            lines[at : last + 1] = [f"{command[1]}pass", *[""] * (last - at)]
    return "\n".join([f"# -- code cell {number}, left out: {why} --", *(f"# {line}" for line in text.split("\n"))])


def said(error):
    line = getattr(error, "lineno", None)
    where = f" in line {line}: `{(error.text or '').strip()[:100]}`" if line else ""
    return " ".join(f"{getattr(error, 'msg', error)}{where}".split())


def parsed(text, name="your file"):
    """The tree of a text, made simple: see `simplified`. Unreadable if it is not Python.

    Its `left_out` holds the cells of a notebook that are not.
    """
    try:
        tree = simplified(parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"{name} is not Python yet: {said(error)}") from None
    tree.left_out, lines = [], text.split("\n")
    for i, line in enumerate(lines):
        if (head := CELL.match(line)) and head[2]:
            rest = [line.removeprefix("# ") for line in lines[i + 1 : next_cell(lines, i + 1)]]
            tree.left_out.append(LeftOut(int(head[1]), head[2], i + 1, "\n".join(rest)))
    return tree


def next_cell(lines, first):
    return next((i for i in range(first, len(lines)) if CELL.match(lines[i])), len(lines))


def spot(lines, line):
    """How to call a line of a text: its number, or "2 of code cell 3"."""
    for i in range(min(line, len(lines)) - 1, -1, -1):
        if head := CELL.match(lines[i].rstrip("\n")):
            return f"{line - i - 1} of code cell {head[1]}"
    notebook = any(CELL.match(text.rstrip("\n")) for text in lines)
    return f"{line} of code cell 1" if notebook else line


def simplified(tree):
    """The tree without annotations of functions, which nobody evaluates here, and with `a, b = 1, 2` as two lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            for arg in (n for n in ast.walk(node.args) if isinstance(n, ast.arg)):
                arg.annotation = None
        elif isinstance(node, ast.Module | ast.ClassDef):
            node.body = [simple for statement in node.body for simple in apart(statement)]
    return tree


def apart(node):
    """`a, b = 1, 2` as `a = 1` and `b = 2`, unless one value needs another name; anything else as it is."""
    pairs = ast.Tuple | ast.List
    if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], pairs) and isinstance(node.value, pairs)):
        return [node]
    (names, *others), values = node.targets, node.value.elts
    plain = not others and all(isinstance(n, ast.Name) for n in names.elts) and len(names.elts) == len(values)
    used = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    if not plain or any(isinstance(v, ast.Starred) for v in values) or used & set(names_of(node)):
        return [node]
    return [ast.copy_location(ast.Assign([name], value), node) for name, value in zip(names.elts, values, strict=True)]


def variant_of(text):
    """The seed of a variant that the first line of a started file tells, or None."""
    found = re.match(r"# minipeft exercise: \w+ \(variant ([^\n]+)\)", text)
    return found and found[1]


# -- what stands in a tree --------------------------------------------------------------------------------------------


def functions(tree):
    """{qualified name: (the body it is part of, node)} of functions, methods and assigned names; the last counts."""
    found = {}
    for body, prefix in [(tree.body, "")] + [(c.body, f"{c.name}.") for c in tree.body if isinstance(c, ast.ClassDef)]:
        for node in body:
            for name in names_of(node):
                found[prefix + name] = body, node
    return found


def names_of(node):
    """The names that a definition or an assignment gives."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        targets = [t for target in targets for t in getattr(target, "elts", [target])]
        return [t.id for t in targets if isinstance(t, ast.Name)]
    return []


def statements(function):
    """The body of a function without its docstring."""
    return function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body


def is_empty(node):
    """Is this still to be written: `raise NotImplementedError`, `pass`, `...`, or a constant that is `...` or None?"""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return node.value is None or (isinstance(node.value, ast.Constant) and node.value.value in (..., None))
    body = statements(node)
    if not body:
        return True
    if len(body) > 1:
        return False
    (only,) = body
    if isinstance(only, ast.Raise):
        raised = only.exc.func if isinstance(only.exc, ast.Call) else only.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return isinstance(only, ast.Pass) or (isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant))


def written(tree, stubs):
    """The stubs that are filled in. Unreadable if one stands in a cell that is not Python, and nowhere behind it."""
    found = functions(tree)
    for cell in getattr(tree, "left_out", ()):
        if lost := [s for s in stubs if cell.holds(s) and not (s in found and found[s][1].lineno > cell.line)]:
            raise Unreadable(f"code cell {cell.number} is not Python yet: {cell.why}. It holds {', '.join(lost)}")
    return [name for name in stubs if name in found and not is_empty(found[name][1])]


def changed(tree, reference, stubs):
    """Those of the stubs that are not, word for word, as in the reference."""
    (theirs, ours) = functions(tree), functions(reference)
    return [name for name in stubs if ast.dump(theirs[name][1]) != ast.dump(ours[name][1])]
