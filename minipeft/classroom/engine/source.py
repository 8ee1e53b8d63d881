"""A student's text and the reference's: emptying bodies, taking definitions from a file or notebook, putting them in.

Of what a student hands in only imports, functions, classes and constants are taken; nothing is run that stands between
them, so a notebook may train and plot as it likes. The bodies that an exercise asks for go into the reference, with
whatever the student added; everything else is the reference's own.
"""

import ast
import copy
import json
import linecache
import re
import types

THEIRS = 1_000_000  # added to the student's line numbers, to tell them from the reference's
ALLOWED = {
    "__future__", "abc", "collections", "contextlib", "copy", "dataclasses", "einops", "enum", "functools", "itertools",
    "math", "numbers", "numpy", "operator", "random", "statistics", "string", "torch", "typing", "warnings",
}  # fmt: skip  # what an added import may bring; the reference brings its own


class Unreadable(ValueError):
    """The text is not Python; the message tells the line."""


def functions(tree):
    """{qualified name: (the body it is part of, node)} of functions, methods and assigned names; the last counts."""
    found = {}
    for body, prefix in [(tree.body, "")] + [(c.body, f"{c.name}.") for c in tree.body if isinstance(c, ast.ClassDef)]:
        for node in body:
            for name in names_of(node):
                found[prefix + name] = body, node
    return found


def names_of(node):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
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


def emptied(text, stubs, hidden=()):
    """The text with the bodies of the stubs replaced by an error that says whose turn it is; all else stays.

    hidden: bodies that would tell too much; they are left out as well, but are nobody's turn.
    """
    lines = text.splitlines()
    found = functions(ast.parse(text))
    for name in sorted((*stubs, *hidden), key=lambda h: -found[h][1].lineno):
        node = found[name][1]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            first, last, indent = node.value.lineno, node.value.end_lineno, ""
            start = lines[first - 1].encode()[: node.value.col_offset].decode().removesuffix("(").rstrip()
            new = [f"{start} ...  # your turn"]
        else:
            body = statements(node)
            first, last, indent = body[0].lineno, node.end_lineno, " " * body[0].col_offset
            count = sum(bool(line.strip()) for line in lines[first - 1 : last])
            size = f"about {count} line{'s' if count > 1 else ''}"
            why = (
                "hidden while you write yours; the check uses the project's own"
                if name in hidden
                else f"your turn ({size})"
            )
            new = [f'{indent}raise NotImplementedError("{name}: {why}")']
        lines[first - 1 : last] = new
    return "\n".join(lines) + "\n"


def text_of(path):
    """The Python text of a file, or of the code cells of a notebook. Unreadable if it is neither."""
    try:
        raw = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"{path.name} is not a text file in UTF-8") from None
    if path.suffix != ".ipynb":
        return raw
    try:
        cells = [c for c in json.loads(raw)["cells"] if c["cell_type"] == "code"]
        sources = ["".join(c["source"]) for c in cells]
    except (ValueError, KeyError, TypeError):
        raise Unreadable(f"{path.name} is not a notebook") from None
    kept = []
    for source in sources:  # a cell that is no Python, magics included, is left out
        source = re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE)
        try:
            ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        kept.append(source)
    return "\n\n".join(kept)


def variant_of(text):
    """The seed of variants that the first line of a started file tells, or None."""
    found = re.match(r"# minipeft exercise: \w+ \(variant ([^\n]+)\)", text)
    return found and found[1]


def parsed(text, name="your file"):
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}: `{(error.text or '').strip()}`" if line else ""
        raise Unreadable(f"{name} is not Python yet: {getattr(error, 'msg', error)}{where}") from None


def written(tree, stubs):
    """The stubs that are filled in."""
    found = functions(tree)
    return [name for name in stubs if name in found and not is_empty(found[name][1])]


def changed(tree, reference, stubs):
    """Those of the stubs that are not, word for word, as in the reference."""
    (theirs, ours) = functions(tree), functions(reference)
    return [name for name in stubs if ast.dump(theirs[name][1]) != ast.dump(ours[name][1])]


def is_literal(node):
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return isinstance(node, ast.BinOp) and is_literal(node.left) and is_literal(node.right)
    return True


def imports(node):
    """The names of an import that may be taken: (node with these alone, names refused)."""
    if isinstance(node, ast.ImportFrom):
        fine = not node.level and (node.module or "").split(".")[0] in ALLOWED
        return (node, []) if fine else (None, [node.module or "."])
    kept = [a for a in node.names if a.name.split(".")[0] in ALLOWED]
    refused = [a.name for a in node.names if a not in kept]
    return (ast.Import(names=kept) if kept else None), refused


def additions(tree, reference):
    """What the student added to the reference, as (class or None, node), and the imports that are refused."""
    known, extra, refused = functions(reference), [], []
    classes = {node.name for node in reference.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            kept, no = imports(node)
            extra += [(None, ast.copy_location(kept, node))] if kept else []
            refused += no
        elif isinstance(node, ast.ClassDef) and node.name in classes:
            extra += [(node.name, n) for n in node.body if is_new(n, known, f"{node.name}.")]
        elif is_new(node, known, ""):
            extra.append((None, node))
    theirs = {n for node in reference.body if isinstance(node, ast.Import | ast.ImportFrom) for n in origin(node)}
    return extra, [name for name in refused if name not in theirs]


def origin(node):
    return [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]


def is_new(node, known, prefix):
    if any(prefix + name in known for name in names_of(node)):
        return False
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return node.value is not None and is_literal(node.value) and bool(names_of(node))
    return isinstance(node, ast.FunctionDef | ast.ClassDef)


def splice(reference, student, stubs, take, fill):
    """The reference's tree with the student's bodies in it. Neither of the two trees is changed.

    Args:
        take: which stubs come from the student. fill: do the others keep the reference's body, or are they empty?
    """
    tree = copy.copy(reference)
    tree.body = [copy.copy(node) for node in reference.body]
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in classes.values():
        node.body = [copy.copy(n) for n in node.body]
    ours, theirs = functions(tree), functions(student)
    for name in stubs:
        body, node = ours[name]
        if name in take:
            body[body.index(node)] = theirs[name][1]
        elif not fill:
            empty = ast.parse(f"raise NotImplementedError({name + ': not written yet'!r})").body
            if isinstance(node, ast.Assign | ast.AnnAssign):
                node.value = ast.copy_location(ast.Constant(None), node)
            else:
                node.body = [ast.increment_lineno(n, node.lineno) for n in empty]
    extra, _ = additions(student, reference)
    last_import = max(i for i, n in enumerate(tree.body) if isinstance(n, ast.Import | ast.ImportFrom))
    for owner, node in reversed(extra):
        if owner:
            classes[owner].body.append(node)
        elif isinstance(node, ast.ClassDef):  # it may derive from one of the reference's
            tree.body.append(node)
        else:
            tree.body.insert(last_import + 1, node)
    return tree


def load(tree, name, text=""):
    """A module made from a tree. Its lines are known to tracebacks as those of `text`."""
    filename = f"<{name}>"
    linecache.cache[filename] = len(text), None, text.splitlines(True), filename
    module = types.ModuleType(name)
    module.__files__ = {filename}
    exec(compile(tree, filename, "exec"), module.__dict__)
    return module


def adopt(thing, owner=None, names=None):
    """A function, or what decorates one, made anew for another class, where its `super()` starts; None for no class.

    names: the dictionary in which it looks up global names; by default that of its own module.
    """
    if isinstance(thing, property):
        return property(*(f and adopt(f, owner, names) for f in (thing.fget, thing.fset, thing.fdel)))
    if isinstance(thing, staticmethod | classmethod):
        return type(thing)(adopt(thing.__func__, owner, names))
    if not isinstance(thing, types.FunctionType):
        return thing
    cells = tuple(
        types.CellType(owner) if name == "__class__" else cell
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
    )
    names = thing.__globals__ if names is None else names
    made = types.FunctionType(thing.__code__, names, thing.__name__, thing.__defaults__, cells)
    made.__kwdefaults__, made.__doc__, made.__qualname__ = thing.__kwdefaults__, thing.__doc__, thing.__qualname__
    return made


def functions_of(thing):
    """The plain functions behind a function, method or property."""
    if isinstance(thing, property):
        return [f for f in (thing.fget, thing.fset, thing.fdel) if f]
    thing = getattr(thing, "__func__", thing)
    return [thing] if isinstance(thing, types.FunctionType) else []


def files(thing):
    return {f.__code__.co_filename for f in functions_of(thing)}


def does_nothing(thing):
    """Does this function only raise NotImplementedError?"""
    codes = [f.__code__ for f in functions_of(thing)]
    return bool(codes) and all(c.co_names == ("NotImplementedError",) for c in codes)


def empty(name):
    def body(*_, **__):
        raise NotImplementedError(f"{name}: not written yet")

    return body


def place_of(error, files, marked):
    """(line number, text) of the student's own line in which an error arose, or None.

    files: names of their code; marked: are their lines told from the reference's by THEIRS?
    """
    found, tb = None, error.__traceback__
    while tb:
        name = tb.tb_frame.f_code.co_filename
        if name in files:
            line = tb.tb_lineno - THEIRS if marked else tb.tb_lineno
            if line > 0:
                found = line, linecache.getline(name, line).strip()
        tb = tb.tb_next
    return found
