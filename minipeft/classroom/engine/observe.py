"""Observing: what an exercise's observations see of a student's work, as plain data that JSON can carry.

Subject    a text (a file, a notebook on disk)
Handed     classes and functions made in a notebook
Both put the student's bodies into a fresh reference and are asked in the same way.
"""

import threading
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from minipeft.classroom.engine import reading, source, taken

LOOKING = threading.RLock()


class Stopped(Exception):
    """No observations came back from a process; the message says why, to the student."""


def observe(exercise, impl, only=None):
    """{observation: plain value} of a module; an error becomes {"error": ..., "line": ...}. only: names, else all."""
    return {o.name: look(o, impl) for o in exercise.observations if only is None or o.name in only}


@dataclass(frozen=True)
class Work:
    """What is to be judged.

    asked: the bodies that are asked for. written: those that are there. changed: those of them that are not, word for
    word, the project's own. seed: of a teacher's variant. notes: what was left out of a student's file. imports: {name:
    where it was to come from} of what a solution may not use.
    """

    exercise: object
    asked: tuple[str, ...]
    written: tuple[str, ...]
    changed: tuple[str, ...]
    seed: str | None = None
    notes: tuple[str, ...] = ()
    imports: dict[str, str] = field(default_factory=dict)


def work_in(exercise, text, seed=None, only=None):
    """The work in a student's text. only: one body that is asked for. Raises reading.Unreadable if it is not Python."""
    tree = reading.parsed(text)
    asked = exercise.stubs if only is None else (only,)
    written = reading.written(tree, asked)
    changed = reading.changed(tree, exercise.tree(seed), written)
    additions = taken.Additions(tree, exercise.tree(seed))
    notes = [f"({said})" for said in taken.notes(text, tree, exercise.tree(seed), exercise.stubs, additions)]
    imports = {name: what for what, name, _ in (*additions.refused, *additions.missing)}
    return Work(exercise, tuple(asked), tuple(written), tuple(changed), seed, tuple(notes), imports)


class Subject:
    """A student's text as something to observe. A grader keeps it in a child process and judges what it tells.

    around: the text that the student's bodies are put into; by default the whole reference under the seed.

    Raises Unreadable if the text is not Python.
    """

    def __init__(self, exercise, text, seed=None, around=None):
        self.exercise, self.text = exercise, text
        self.reference = exercise.tree(seed) if around is None else reading.parsed(around)
        self.tree = source.ast.increment_lineno(reading.parsed(text), source.THEIRS)

    def observe(self, take, fill, only=None):
        """Observations of the reference with these stubs from the student; the others are filled by it, or empty."""
        x, label = self.exercise, f"your {self.exercise.name}"
        try:
            tree = source.splice(self.reference, self.tree, x.stubs, take, fill)
            impl = source.load(tree, label, self.text)
        except (Exception, SystemExit) as error:  # in a default argument or a decorator, say
            failed = failure(error, SimpleNamespace(__files__={f"<{label}>"}))
            return {o.name: failed for o in x.observations if only is None or o.name in only}
        return observe(x, impl, only)


def look(observation, impl):
    """Every observation starts alike: the same random numbers, double precision (what is made, too), no warnings.

    These are of the whole process, so of several threads, such as a grader has, one looks at a time.
    """
    with LOOKING:
        return look_alone(observation, impl)


def look_alone(observation, impl):
    before, state = torch.get_default_dtype(), torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(0)  # torch.manual_seed asks every device: longer than most observations take
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return plain(observation.look(impl))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a solution may call sys.exit
        return failure(error, impl)
    finally:
        torch.set_default_dtype(before)
        torch.random.set_rng_state(state)


def failure(error, impl=None):
    try:
        said = str(error).strip().partition("\n")[0]
        said = "a function calls itself without end" if isinstance(error, RecursionError) else said
    except Exception:
        said = ""
    text = f"{type(error).__name__}: {said}"
    place = source.place_of(error, getattr(impl, "__files__", ()), not hasattr(impl, "handed_in"))
    return {"error": text[:300].rstrip(": "), "line": place and place[0], "code": place and place[1]}


def plain(value):
    """Tensors, and what holds them, as data that JSON can carry."""
    if isinstance(value, torch.Tensor):
        if value.is_sparse or value.is_quantized:
            value = value.to_dense()
        return {"shape": list(value.shape), "data": value.detach().cpu().double().flatten().tolist()}
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(torch.from_numpy(np.asarray(value, dtype=float)))
    if isinstance(value, dict):
        return {"items": {str(key): plain(v) for key, v in value.items()}}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return f"a {type(value).__name__}"


class Handed:
    """Classes and functions made in a notebook as something to observe: their bodies go into a fresh reference.

    whole: is a class that is made from the project's own asked for the bodies, too, that it inherits from it?
    """

    def __init__(self, exercise, given, seed=None, whole=True):
        self.exercise, self.reference = exercise, exercise.tree(seed)
        wanted = dict.fromkeys(stub.partition(".")[0] for stub in exercise.stubs)
        named = {getattr(thing, "__name__", str(thing)): thing for thing in given}
        if not named or (strange := [name for name in named if name not in wanted]):
            raise ValueError(
                f"exercise {exercise.name!r} asks for {', '.join(wanted)}; "
                + (f"got {', '.join(strange)}" if named else "hand them in: check(name, Class or function)")
            )
        self.bodies, self.more, inherited = {}, [], set()
        for name, thing in named.items():
            if not isinstance(thing, type):
                if home(thing) != "minipeft":  # the project's own, imported, is nobody's solution
                    self.bodies[name] = thing
                continue
            own = [c for c in thing.__mro__ if home(c) not in ("minipeft", "torch", "builtins")]
            parts = {key: value for c in reversed(own) for key, value in vars(c).items()}
            self.bodies |= {f"{name}.{key}": value for key, value in parts.items() if f"{name}.{key}" in exercise.stubs}
            self.more += [(name, key, value) for key, value in parts.items() if not key.startswith("__")]
            if not whole and any(home(c) == "minipeft" and c.__name__ == name for c in thing.__mro__):
                inherited |= {s for s in exercise.stubs if s.startswith(f"{name}.") and s.split(".")[1] not in parts}
        asked = [stub for stub in exercise.stubs if stub.partition(".")[0] in named]
        self.stubs = [stub for stub in asked if stub not in inherited] or asked
        self.bodies = {stub: thing for stub, thing in self.bodies.items() if not source.does_nothing(thing)}
        self.work = Work(exercise, tuple(self.stubs), tuple(self.bodies), (), seed)

    def observe(self, take, fill, only=None):
        """As a `Subject`."""
        impl = source.load(self.reference, f"the reference around your {self.exercise.name}")
        impl.handed_in = True
        theirs = next((f.__globals__ for thing in self.bodies.values() for f in source.functions_of(thing)), {})
        names = theirs | vars(impl)  # of the notebook, but where the reference has one of that name
        for owner, key, value in self.more:
            if not hasattr(getattr(impl, owner), key):
                setattr(getattr(impl, owner), key, source.adopt(value, getattr(impl, owner), names))
        for stub in self.exercise.stubs:
            owner, _, name = stub.rpartition(".")
            place = getattr(impl, owner) if owner else impl
            if stub in take:
                setattr(place, name, source.adopt(self.bodies[stub], place, names))
            elif not fill and stub in self.stubs:  # a class that was not handed in stays the project's
                setattr(place, name, source.empty(stub))
            if not owner:
                names[name] = getattr(impl, name)
        impl.__files__ = {file for thing in self.bodies.values() for file in source.files(thing)}
        return observe(self.exercise, impl, only)


def home(thing):
    """The package that a class or function was made in."""
    return (getattr(thing, "__module__", None) or "").partition(".")[0]
