"""The student's code drives the course: `use("work/lora.py")` lets minipeft itself run on a file that passes its check.

`import minipeft` runs nobody's file; the commands and `use()` ask for those that MINIPEFT_USE names. In a notebook,
`check("lora", LoRALinear, use=True)` does the same with a class that was written there.

The bodies that an exercise asks for are exchanged in the project's own classes and functions, so every figure, lesson
and command runs on them, whatever they have imported already. `use(None)` gives the project's own back.
"""

import ast
import importlib
import os
import sys
from functools import partial
from pathlib import Path

import minipeft.classroom.desk as desk
from minipeft.classroom.engine import reading, source
from minipeft.classroom.engine.exercise import get_exercise
from minipeft.classroom.engine.observe import Handed
from minipeft.lab import pool

originals = {}  # {(exercise, class or function of a notebook): [(owner, name, what stood there)]}, put back in reverse


def use(*paths):
    """Let minipeft run on the bodies in these files. What is not written yet stays the project's.

    paths: of files; without any, those in the environment variable MINIPEFT_USE, separated as in PATH. None alone gives
    the project's own bodies back.

    Raises ValueError, and changes nothing, if a body is wrong or the file follows a teacher's own rules.
    """
    if paths == (None,):
        return give_back()
    paths = paths or [path for path in os.environ.get("MINIPEFT_USE", "").split(os.pathsep) if path]
    paths = [Path(path) for path in paths]
    reports = [ready(path) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        names = put(report.exercise.name, path)
        pool.FIRST.append(partial(put, report.exercise.name, path))
        left = [name for name in report.stubs if name not in names]
        print(
            f"minipeft now runs on your {', '.join(names)} from {path}"
            + (f" (not written yet, so the project's own: {', '.join(left)})" if left else ""),
            file=sys.stderr,
        )


def ready(path):
    """The report on a file that may be used."""
    report = desk.check_file(path)
    if report.exercise.is_sheet:
        raise ValueError(f"{path} answers questions; minipeft can run on files like {desk.FOLDER / 'lora.py'} only")
    if reading.variant_of(reading.text_of(path)):
        raise ValueError(f"{path} follows your teacher's own rules, not the method's, so the lessons cannot run on it")
    if report.problem or report.finding or "right" not in report.stubs.values():
        raise ValueError(f"{path} cannot be used yet.\n{report.text()}")
    if absent := attributes_missing(report.exercise, reading.parsed(reading.text_of(path))):
        raise ValueError(
            f"{path} is right, but other parts of minipeft may read {', '.join(absent)}, which it does not set: "
            "name it so, and it can be used"
        )
    return report


def attributes_missing(exercise, tree):
    """["Block.pre_norm"]: what the project's bodies set on `self`, and what is written in their place does not."""
    ours, theirs = reading.functions(exercise.tree()), reading.functions(tree)
    found = []
    for name in reading.written(tree, exercise.stubs):
        owner, _, method = name.partition(".")
        if method == "__init__":
            wanted = attributes(ours[name][1]) - attributes(theirs[owner][1])
            found += [f"{owner}.{attribute}" for attribute in sorted(wanted) if not attribute.startswith("_")]
    return found


def attributes(tree):
    """What is set on `self`: by its name, or by a text as `register_buffer` takes it."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "self"} | texts


def put(name, path):
    """Exchange functions of the exercise's module for those that are written in a file. Returns their names."""
    exercise, text = get_exercise(name), reading.text_of(path)
    tree = reading.parsed(text)
    names = reading.written(tree, exercise.stubs)
    module = module_of(exercise)
    spliced = source.splice(exercise.tree(), tree, exercise.stubs, names, True)
    made = source.load(spliced, f"{exercise.name} of {path}", text)

    def adopted(thing, owner):
        """What the student wrote, with the global names of the project's module; what was imported stays as it is."""
        own = any(f.__globals__ is vars(made) for f in source.functions_of(thing))
        return source.adopt(thing, owner, vars(module)) if own else thing

    added = [helper for helper in vars(made) if not helper.startswith("__") and helper not in vars(module)]
    for helper in added:  # of the student's own
        exchange(name, module, helper, adopted(getattr(made, helper), None))
    for stub in names:
        owner, method = stub.rpartition(".")[::2]
        target, theirs = (getattr(module, owner), getattr(made, owner)) if owner else (module, made)
        extra = [n for n in vars(theirs) if owner and n not in vars(target)]
        for n in [*extra, method]:
            thing = adopted(vars(theirs)[n], target if owner else None)
            if owner or n not in vars(module):
                exchange(name, target, n, thing)
            else:
                exchange_everywhere(name, vars(module)[n], thing)
    return names


def adopt(name, *given):
    """Let minipeft run on classes and functions of a notebook. They have to be right. Returns the names of the bodies.

    What they had exchanged before is given back first, so the same cell can be run again. What another cell gave to the
    same exercise stays.
    """
    give_back(name, given=given)
    subject, module = Handed(get_exercise(name), given, whole=False), module_of(get_exercise(name))
    theirs = next((f.__globals__ for thing in subject.bodies.values() for f in source.functions_of(thing)), {})
    names = theirs | vars(module)  # of the notebook, but where the module has one of that name
    for owner, key, thing in subject.more:
        target = getattr(module, owner)
        if not hasattr(target, key):
            exchange(name, target, key, source.adopt(thing, target, names), part=owner)
    for stub, thing in subject.bodies.items():
        owner, method = stub.rpartition(".")[::2]
        if owner:
            target = getattr(module, owner)
            exchange(name, target, method, source.adopt(thing, target, names), part=owner)
        else:
            exchange_everywhere(name, vars(module)[stub], source.adopt(thing, None, names), part=stub)
    return [*subject.bodies]


def module_of(exercise):
    return importlib.import_module("minipeft." + exercise.reference_file.removesuffix(".py").replace("/", "."))


NOTHING = object()


def exchange(exercise, owner, name, thing, part=None):
    """part: the class or function of a notebook that this belongs to; None for a file."""
    originals.setdefault((exercise, part), []).append((owner, name, vars(owner).get(name, NOTHING)))
    setattr(owner, name, thing)


def exchange_everywhere(exercise, original, thing, part=None):
    """A function of a module may have been imported elsewhere by its name."""
    for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == "minipeft"]:
        for name in [name for name, value in vars(module).items() if value is original]:
            exchange(exercise, module, name, thing, part)


def give_back(*exercises, given=()):
    """Put back what stood there before: of these exercises, or of all.

    given: classes and functions of a notebook; what others of the same exercise had exchanged then stays.
    """
    if not exercises:
        pool.FIRST.clear()
    parts = [None, *(getattr(thing, "__name__", None) for thing in given)]
    for exercise, part in [*reversed(originals)]:
        if (not exercises or exercise in exercises) and (not given or part in parts):
            for owner, name, thing in reversed(originals.pop((exercise, part))):
                delattr(owner, name) if thing is NOTHING else setattr(owner, name, thing)
