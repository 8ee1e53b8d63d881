"""A student's text and the reference's: emptying bodies, putting the student's into the reference, making modules.

Of what a student hands in, imports, functions, classes and constants are taken (see `taken`). Nothing that stands
between them is run, so a notebook may train and plot as it likes. The bodies that an exercise asks for go into the
reference, with whatever the student added; everything else is the reference's own.
"""

import ast
import copy
import linecache
import types
import warnings

from minipeft.classroom.engine.reading import functions, spot, statements
from minipeft.classroom.engine.taken import Additions, insert

THEIRS = 1_000_000  # added to the student's line numbers, to tell them from the reference's


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
    ours, theirs, answers = functions(tree), functions(student), []
    for name in stubs:
        body, node = ours[name]
        if name in take and body is tree.body and isinstance(theirs[name][1], ast.Assign | ast.AnnAssign):
            body.remove(node)  # answers may build on each other, so they come in the student's order
            answers += [theirs[name][1]] if theirs[name][1] not in answers else []
        elif name in take:
            body[body.index(node)] = theirs[name][1]
        elif not fill:
            empty = ast.parse(f"raise NotImplementedError({name + ': not written yet'!r})").body
            if isinstance(node, ast.Assign | ast.AnnAssign):
                node.value = ast.copy_location(ast.Constant(None), node)
            else:
                node.body = [ast.increment_lineno(n, node.lineno) for n in empty]
    last_import = max(i for i, n in enumerate(tree.body) if isinstance(n, ast.Import | ast.ImportFrom))
    extra = Additions(student, reference).extra
    outside = [*answers, *(node for owner, node in extra if not owner)]
    insert(tree.body, sorted(outside, key=lambda node: node.lineno), last_import + 1)
    for name, node in classes.items():
        more = [part for owner, part in extra if owner == name]
        fields = [part for part in more if isinstance(part, ast.AnnAssign)]  # of a dataclass: behind its own
        insert(node.body, [part for part in more if part not in fields], ast.get_docstring(node) is not None)
        node.body += fields
    return tree


def load(tree, name, text=""):
    """A module made from a tree. Its lines are known to tracebacks as those of `text`."""
    filename = f"<{name}>"
    linecache.cache[filename] = len(text), None, text.splitlines(True), filename
    module = types.ModuleType(name)
    module.__files__ = {filename}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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
    if names is None or hasattr(thing, "__wrapped__"):  # what a decorator has put around it looks at home
        names = thing.__globals__
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
    """(what to call it, text) of the student's own line in which an error arose, or None.

    files: names of their code; marked: are their lines told from the reference's by THEIRS?
    """
    places, tb = [], error.__traceback__
    while tb:
        places.append((tb.tb_frame.f_code.co_filename, tb.tb_lineno))
        tb = tb.tb_next
    if isinstance(error, SyntaxError):  # noticed only when all is put together
        places.append((error.filename, error.lineno or 0))
    own = [(name, line - THEIRS if marked else line) for name, line in places if name in files]
    own = [(name, line) for name, line in own if line > 0]
    if not own:
        return None
    name, line = own[-1]
    return spot(linecache.getlines(name), line), linecache.getline(name, line).strip()
