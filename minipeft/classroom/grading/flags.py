"""Signs that somebody reaches for the checker instead of writing a solution: sentences for the teacher.

of_text    in the text of a submission: imports of the project's own, frames, modules, exchanged functions
watch      in the process that runs it: which functions are no longer those that were there before

A flag is no verdict: points stay as they are, and somebody has to look. Whoever knows both can avoid them.
"""

import ast
import itertools
import json
import sys
import types

import torch

from minipeft.classroom.engine import reading

SYSTEM = {
    "atexit", "ctypes", "faulthandler", "fcntl", "mmap", "multiprocessing", "os", "pathlib", "posix", "resource",
    "shutil", "signal", "socket", "subprocess", "tempfile", "threading", "_thread",
}  # fmt: skip
INSIDE = {
    "builtins",
    "gc",
    "importlib",
    "inspect",
    "linecache",
    "pickle",
    "pkgutil",
    "runpy",
    "sys",
    "traceback",
    "types",
}
FRAMES = {
    "_getframe", "f_back", "f_builtins", "f_globals", "f_locals", "tb_frame", "tb_next", "gi_frame", "__traceback__",
    "__globals__", "__builtins__", "__closure__", "__code__", "__subclasses__", "__loader__", "__spec__", "settrace",
    "setprofile",
}  # fmt: skip
PLUMBING = {"attach", "views", "arguments"}  # parts of minipeft that hold no solution
USUAL = ("torch", "nn", "F", "np", "json", "math")  # imported by most files, and by the reference
DYNAMIC = {"__import__", "eval", "exec", "compile", "globals", "open", "breakpoint"}


def of_text(text):
    """Sentences about a submission's functions and classes; what stands between them is not run. [] if unreadable."""
    try:
        tree = reading.parsed(text)
        imported = set(itertools.chain(USUAL, *(names_of_import(node) for node in ast.walk(tree))))
        found = []
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found += [(n.lineno, why) for n in ast.walk(node) if (why := sign(n, imported))]
        lines = text.splitlines()
        return [f"Line {n}: `{lines[n - 1].strip()[:100]}` {why}." for n, why in sorted(dict(found[::-1]).items())][:20]
    except (reading.Unreadable, RecursionError, MemoryError, IndexError):
        return []


def names_of_import(node):
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(a.asname or a.name).partition(".")[0] for a in node.names]
    return []


def sign(node, imported):
    """What a piece of a body does that a solution has no need of, or None."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        return next(filter(None, map(of_module, modules)), None)
    if isinstance(node, ast.Name) and (node.id in DYNAMIC or node.id in FRAMES):
        return "makes or finds code while it runs, or opens a file"
    if isinstance(node, ast.Attribute) and node.attr in FRAMES:
        return "looks into the checker that runs it"
    if isinstance(node, ast.Attribute) and node.attr.strip("_") in {m.strip("_") for m in (SYSTEM | INSIDE)}:
        return "reaches a module of the system through another one"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
        target = node.args[0] if node.args else None
        if node.func.id == "setattr" and root(target) in imported:
            return "exchanges something outside the solution"
        if root(target) in imported and len(node.args) > 1 and not isinstance(node.args[1], ast.Constant):
            return "finds something of another module by a name made up while it runs"
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del) and root(node) in imported:
        return "exchanges something outside the solution"
    return None


def of_module(name):
    name, _, part = name.partition(".")
    if name == "minipeft" and part not in PLUMBING:
        return "imports the project inside a body; its own solution may do the work"
    if name in INSIDE:
        return "looks into the checker that runs it"
    return "asks for the system, of which a solution has no need" if name in SYSTEM else None


def root(node):
    """The name at which a chain of attributes begins."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def watch(exercise):
    """A function that tells the names of those functions which are no longer as they are now."""
    before, looks = dict(everything()), [(o, o.look) for o in exercise.observations]
    keep = everything

    def changed():
        now = dict(keep())
        names = [name for name, was in before.items() if now.get(name) != was]
        return names + [f"the observation {o.name!r}" for o, look in looks if o.look is not look]

    return changed


def everything():
    """(name, (which function, which code)) of what observing stands on: JSON, torch, the project, Python's builtins."""
    modules = [m for name, m in list(sys.modules.items()) if name.partition(".")[0] == "minipeft"]
    modules += [sys.modules["builtins"], json, json.encoder, json.decoder, torch, torch.nn, torch.nn.functional]
    modules += [torch.nn.init, torch.linalg, torch.autograd]
    seen = set()
    for module in modules:
        for name, thing in list(vars(module).items()):
            yield from of_thing(f"{module.__name__}.{name}", thing)
            mine = getattr(thing, "__module__", "") or ""
            if isinstance(thing, type) and thing not in seen and mine.partition(".")[0] in ("torch", "minipeft"):
                seen.add(thing)
                for part, inner in list(vars(thing).items()):
                    yield from of_thing(f"{mine}.{thing.__qualname__}.{part}", inner)


def of_thing(name, thing):
    if isinstance(thing, staticmethod | classmethod):
        thing = thing.__func__
    if callable(thing) or isinstance(thing, property):
        code = thing.__code__ if isinstance(thing, types.FunctionType) else None
        yield name, (id(thing), id(code))
