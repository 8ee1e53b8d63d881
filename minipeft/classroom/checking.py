"""Checking: observe, compare with the reference, and say in words what is wrong and which mistake it looks like.

check("lora", LoRALinear)      in a notebook: prints the diagnosis, draws what differs
check("work/lora.py")          a file or notebook
expect("lora", LoRALinear)     the same as an assertion, for graders

The child process of a grader only observes; the comparing and judging is done here, by the parent, on plain numbers.
"""

import contextlib
import math
import os
import re
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch

import minipeft.classroom.exercise as shelf
import minipeft.classroom.source as source

TOLERANCE = 1e-6
PLAIN = "plain rule"


# -- observing --------------------------------------------------------------------------------------------------------


def observe(exercise, impl, only=None):
    """{observation: plain value} of a module; an error becomes {"error": ..., "line": ...}. only: names, else all."""
    return {o.name: look(o, impl) for o in exercise.observations if only is None or o.name in only}


class Subject:
    """A student's text as something to observe. A grader keeps it in a child process and judges what it tells.

    Raises Unreadable if the text is not Python.
    """

    def __init__(self, exercise, text, seed=None):
        self.exercise, self.text, self.reference = exercise, text, exercise.tree(seed)
        self.tree = source.ast.increment_lineno(source.parsed(text), source.THEIRS)

    def observe(self, take, fill, only=None):
        """Observations of the reference with these holes from the student; the others are filled by it, or empty."""
        x, label = self.exercise, f"your {self.exercise.name}"
        try:
            tree = source.splice(self.reference, self.tree, x.holes, take, fill)
            impl = source.load(tree, label, self.text)
        except (Exception, SystemExit) as error:  # in a default argument or a decorator, say
            failed = failure(error)
            return {o.name: failed for o in x.observations if only is None or o.name in only}
        return observe(x, impl, only)


def look(observation, impl):
    """Every observation starts alike: the same random numbers, double precision (what is made, too), no warnings."""
    before, state = torch.get_default_dtype(), torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(
        0
    )  # torch.manual_seed asks every kind of device, which takes longer than most observations
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
    if isinstance(value, np.ndarray | np.generic):
        return plain(torch.from_numpy(np.asarray(value, dtype=float)))
    if isinstance(value, dict):
        return {"items": {str(key): plain(v) for key, v in value.items()}}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return f"a {type(value).__name__}"


class Handed:
    """Classes and functions made in a notebook as something to observe: their bodies go into a fresh reference."""

    def __init__(self, exercise, given, seed=None):
        self.exercise, self.reference = exercise, exercise.tree(seed)
        wanted = dict.fromkeys(hole.partition(".")[0] for hole in exercise.holes)
        named = {getattr(thing, "__name__", str(thing)): thing for thing in given}
        if not named or (strange := [name for name in named if name not in wanted]):
            raise ValueError(
                f"exercise {exercise.name!r} asks for {', '.join(wanted)}; "
                + (f"got {', '.join(strange)}" if named else "hand them in: check(name, Class or function)")
            )
        self.holes = [hole for hole in exercise.holes if hole.partition(".")[0] in named]
        self.bodies, self.more = {}, []
        for name, thing in named.items():
            if not isinstance(thing, type):
                if home(thing) != "minipeft":  # the project's own, imported, is nobody's solution
                    self.bodies[name] = thing
                continue
            own = [c for c in thing.__mro__ if home(c) not in ("minipeft", "torch", "builtins")]
            parts = {key: value for c in reversed(own) for key, value in vars(c).items()}
            self.bodies |= {f"{name}.{key}": value for key, value in parts.items() if f"{name}.{key}" in exercise.holes}
            self.more += [(name, key, value) for key, value in parts.items() if not key.startswith("__")]
        self.bodies = {hole: thing for hole, thing in self.bodies.items() if not source.does_nothing(thing)}

    def observe(self, take, fill, only=None):
        """As a `Subject`."""
        impl = source.load(self.reference, f"the reference around your {self.exercise.name}")
        impl.handed_in = True
        theirs = next((f.__globals__ for thing in self.bodies.values() for f in source.functions_of(thing)), {})
        names = theirs | vars(impl)  # of the notebook, but where the reference has one of that name
        for owner, key, value in self.more:
            if not hasattr(getattr(impl, owner), key):
                setattr(getattr(impl, owner), key, source.adopt(value, getattr(impl, owner), names))
        for hole in self.exercise.holes:
            owner, _, name = hole.rpartition(".")
            place = getattr(impl, owner) if owner else impl
            if hole in take:
                setattr(place, name, source.adopt(self.bodies[hole], place, names))
            elif not fill and hole in self.holes:  # a class that was not handed in stays the project's
                setattr(place, name, source.empty(hole))
            if not owner:
                names[name] = getattr(impl, name)
        impl.__files__ = {file for thing in self.bodies.values() for file in source.files(thing)}
        return observe(self.exercise, impl, only)


def home(thing):
    """The package that a class or function was made in."""
    return (getattr(thing, "__module__", None) or "").partition(".")[0]


# -- comparing --------------------------------------------------------------------------------------------------------


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(a, b):
    """Equal up to rounding: within a millionth of the largest number."""
    if is_number(a) and is_number(b):
        return close([a], [b])
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        if "error" in a or "error" in b:
            return a.get("error") == b.get("error")
        if "data" in a and "data" in b:
            return a["shape"] == b["shape"] and close(a["data"], b["data"])
        return list(sorted(a)) == list(sorted(b)) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def close(a, b):
    if isinstance(a, list) and a == b:
        return True
    try:
        a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    except (TypeError, ValueError, OverflowError):  # what a child sent may be anything
        return False
    if a.shape != b.shape:
        return False
    both = np.concatenate([a.ravel(), b.ravel()])
    size = float(np.abs(both[np.isfinite(both)]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= TOLERANCE * size + 1e-12
    return bool((near | (a == b) | (np.isnan(a) & np.isnan(b))).all())


def differing(expected, got):
    return [name for name in expected if not same(expected[name], got.get(name))]


def difference(expected, got):
    """In words, what is different between two plain values."""
    if isinstance(got, dict) and "error" in got:
        where = f" in line {got['line']}: `{got['code']}`" if got.get("line") else ""
        return f"It stops with {got['error']}{where}."
    if isinstance(expected, dict) and "error" in expected:
        return f"Expected {expected['error'].partition(':')[0]}, yours goes on without one."
    if is_number(expected) and is_number(got):
        return (
            f"Yours is {times(expected, got)}."
            if expected and got
            else f"Expected {short(expected)}, got {short(got)}."
        )
    if isinstance(expected, dict) and isinstance(got, dict):
        if "data" in expected and "data" in got:
            return of_tensors(expected, got)
        if "items" in expected and "items" in got:
            return of_items(expected["items"], got["items"])
    if isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            return f"Expected {len(expected)} of them, got {len(got)}."
        first = next(i for i, pair in enumerate(zip(expected, got, strict=True)) if not same(*pair))
        return (f"Number {first + 1}: " if len(expected) > 1 else "") + difference(expected[first], got[first])
    return f"Expected {short(expected)}, got {short(got)}."


def of_tensors(expected, got):
    if expected["shape"] != got["shape"]:
        return f"Expected the shape {tuple(expected['shape'])}, got {tuple(got['shape'])}."
    e, g = np.asarray(expected["data"], dtype=float), np.asarray(got["data"], dtype=float)
    if np.isnan(g).any() and not np.isnan(e).any():
        return "Yours holds NaN."
    if not g.any():
        return "Yours is zero everywhere."
    if not e.any():
        return f"It should be zero everywhere, yours reaches {short(float(np.abs(g).max()))}."
    ratio = float(e @ g / (e @ e)) if np.isfinite(e).all() and np.isfinite(g).all() else math.nan
    if np.isfinite(ratio) and close(ratio * e, g):
        return f"Yours is {times(1, ratio)}."
    wrong = int((~np.isclose(e, g, rtol=0, atol=TOLERANCE * float(np.abs(e).max()), equal_nan=True)).sum())
    return f"{wrong} of {len(e)} numbers differ, by up to {short(float(np.nanmax(np.abs(e - g))))}."


def of_items(expected, got):
    missing, extra = [k for k in expected if k not in got], [k for k in got if k not in expected]
    if missing or extra:
        return " ".join(f"{w}: {', '.join(k)}." for w, k in (("Missing", missing), ("Too many", extra)) if k)
    name = next(k for k in expected if not same(expected[k], got[k]))
    return f"{name}: {difference(expected[name], got[name])}"


def times(expected, got):
    ratio = got / expected
    text = f"{ratio:.2f}" if 0.1 <= abs(ratio) < 1000 else f"{ratio:.3g}"
    text = f"{ratio:.7g}" if text == "1.00" else text
    return "the expected one with the sign turned" if close([ratio], [-1]) else f"{text} times the expected one"


def short(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and "data" in value:
        return f"numbers of shape {tuple(value['shape'])}"
    text = str([*value["items"]] if isinstance(value, dict) and "items" in value else value)
    return text if len(text) < 80 else text[:77] + "..."


# -- diagnosing -------------------------------------------------------------------------------------------------------


@dataclass
class Finding:
    """What is wrong: the first observation that differs, and the mistake it looks like, if that is clear."""

    observation: str
    symptom: str
    mistake: object = None
    hole: str | None = None
    pair: tuple | None = None  # expected and got, where both are numbers of one shape


@dataclass
class Report:
    """The result of a check. `holes`: {name: "right", "wrong", "not written yet" or "unclear"}."""

    exercise: object
    holes: dict[str, str]
    right: list[str] = field(default_factory=list)  # names of the observations that agree
    finding: Finding | None = None
    problem: str | None = None  # the text could not be read, or no numbers came back
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self):
        return not self.finding and not self.problem and all(state == "right" for state in self.holes.values())

    def groups(self):
        """{group: are all its observations right}"""
        by = {group: True for group in self.exercise.groups}
        for o in self.exercise.observations:
            by[o.group] &= o.name in self.right
        return by

    def text(self, hints=4):
        """The diagnosis. hints: 1 the symptom, 2 and a question, 3 and what it looks like, 4 and where to read."""
        x = self.exercise
        if self.passed:
            return "\n".join([f"{x.name}: right. All {len(x.observations)} observations agree.", *self.notes])
        if self.problem:
            return f"{x.name}: {self.problem}"
        empty = [name for name, state in self.holes.items() if state == "not written yet"]
        if len(empty) == len(self.holes):
            return f"{x.name}: not written yet ({', '.join(empty)})"
        lines = [f"{x.name}: {'not right yet' if self.finding else 'right so far, not written to the end'}"]
        marks = {"right": "✓", "wrong": "✗", "not written yet": "·", "unclear": "?"}
        lines += [
            f"  {marks[s]} {name}{'' if s in ('right', 'wrong', 'unclear') else '  ' + s}"
            for name, s in self.holes.items()
        ]
        if f := self.finding:
            lines.append(f"{f.hole + ': ' if f.hole else ''}{f.symptom}")
            if f.mistake and hints > 1:
                lines.append(f"Ask yourself: {f.mistake.question}")
            if f.mistake and hints > 2:
                lines.append(f"This looks like: {f.mistake.what}. {f.mistake.hint}")
            if hints > 3:
                lines.append(f"To read: {x.read}")
        return "\n".join([*lines, *self.notes])


@cache
def reference(exercise, seed=None):
    """The reference as a fresh module."""
    text = exercise.reference(seed)
    return source.load(source.ast.parse(text), f"the reference of {exercise.name}", text)


@cache
def expected(exercise, seed=None):
    return observe(exercise, reference(exercise, seed))


@cache
def broken(exercise, mistake, seed=None):
    """The reference with a mistake of the bank in it, or None if a house rule leaves no place for it."""
    if mistake.id == PLAIN:  # the plain bodies in the file that tells another rule, as a student would hand them in
        plain_bodies, x = source.parsed(exercise.plain()), exercise
        return source.load(source.splice(x.tree(seed), plain_bodies, x.holes, x.holes, True), PLAIN)
    try:
        text = shelf.edited(exercise.reference(seed), mistake.edits)
    except ValueError:
        return None
    return source.load(source.ast.parse(text), mistake.id, text)


@cache
def symptom(exercise, mistake, name, seed=None):
    """What one observation sees of a mistake."""
    return observe(exercise, broken(exercise, mistake, seed), [name])[name]


@cache
def bank(exercise, seed=None):
    """The known mistakes; under a house rule the plain rule is one, and the first."""
    if not exercise.rules(seed):
        return list(exercise.mistakes)
    rule = "; ".join(h.rule for h in exercise.rules(seed))
    plain_rule = shelf.Mistake(
        PLAIN, (), "the rule of the paper, where your teacher asks for another",
        "what does the text of this exercise ask for?", f"Here {rule}.",
    )  # fmt: skip
    return [plain_rule, *exercise.mistakes]


def recognise(exercise, got, seed=None, holes=None, entirely=False):
    """(the mistake that these observations look like, the names of those that it explains), or (None, []).

    That is one whose symptoms are all among these; the one that explains most of them, if no other does as well.
    holes: look first among the mistakes in these bodies. entirely: it has to explain all of them.
    """
    if holes:
        mistakes = [m for m in bank(exercise, seed) if exercise.touched(m, seed) <= set(holes)]
        if (found := best(exercise, mistakes, got, seed, entirely))[0]:
            return found
    return best(exercise, bank(exercise, seed), got, seed, entirely)


def best(exercise, mistakes, got, seed, entirely):
    least = len(differing(expected(exercise, seed), got)) if entirely else 1
    found = {m: names for m in mistakes if len(names := explained(exercise, m, got, seed)) >= least}
    most = max(map(len, found.values()), default=0)
    first, *others = [(m, names) for m, names in found.items() if len(names) == most] or [(None, [])]
    return (None, []) if others else first


def explained(exercise, mistake, got, seed=None):
    """Which of the wrong observations a mistake explains; none as soon as it has a symptom that is not there."""
    right = expected(exercise, seed)
    if broken(exercise, mistake, seed) is None:
        return []
    wrong, names = differing(right, got), []
    for name in [*wrong, *(n for n in right if n not in wrong)]:
        if name not in wrong and not names:
            return []
        value = symptom(exercise, mistake, name, seed)
        if not same(value, right[name]):
            if not same(value, got.get(name)):
                return []
            names.append(name)
    return names


def find(exercise, got, seed=None, holes=None):
    """The finding for observations that are not all right: the first, or the first that a known mistake explains."""
    right = expected(exercise, seed)
    mistake, names = recognise(exercise, got, seed, holes)
    first = (names or differing(right, got))[0]
    o = next(o for o in exercise.observations if o.name == first)
    said = f"{o.says} {difference(right[first], got.get(first))}"
    hole = holes[0] if holes and len(holes) == 1 else None
    return Finding(first, said, mistake, hole, drawable(right[first], got.get(first)))


def drawable(expected, got):
    """Two tensors of one shape that can be shown as pictures, also inside equal structures; or None."""
    if isinstance(expected, dict) and isinstance(got, dict):
        if "data" in expected and "data" in got and expected["shape"] == got["shape"] and len(expected["data"]) > 2:
            return expected, got
        if "items" in expected and "items" in got:
            expected, got = expected["items"], got["items"]
            pairs = [(expected[k], got[k]) for k in expected if k in got]
        else:
            return None
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = list(zip(expected, got, strict=True))
    else:
        return None
    return next((found for e, g in pairs if not same(e, g) and (found := drawable(e, g))), None)


def judge(exercise, text, subject, seed=None):
    """The report on a text. subject: who is asked for observations, a `Subject` or the grader's line to one."""
    tree = source.parsed(text)
    report = weigh(exercise, exercise.holes, source.written(tree, exercise.holes), subject, seed)
    _, refused = source.additions(tree, exercise.tree(seed))
    if refused:
        report.notes.append(f"(left out: import of {', '.join(dict.fromkeys(refused))}, which a solution may not use)")
    return report


def weigh(exercise, asked, there, subject, seed=None, group=None):
    """The report on those bodies that are `there`, of those that were `asked` for.

    group: if this group of observations is right, look no further; another body may run for ever.

    First all together, with the project's own where nothing is written yet. If that is not right, each body alone among
    the project's own, to find where the mistake is.
    """
    right = expected(exercise, seed)
    states = {name: "right" if name in there else "not written yet" for name in asked}
    if not there:
        return Report(exercise, states)
    complete, first = len(there) == len(states), [o.name for o in exercise.observations if o.group == group]
    if first and not differing({n: right[n] for n in first}, subject.observe(there, complete, first)):
        return Report(exercise, states, first)
    whole = graded = subject.observe(there, True)
    if not complete:
        graded = subject.observe(there, False)
    report = Report(exercise, states, [n for n in right if same(right[n], graded.get(n))])
    wrong = differing(right, whole)
    if not wrong:
        return report
    alone = {there[0]: whole} if len(there) == 1 else {h: right | single(subject, h, there, wrong) for h in there}
    guilty = [hole for hole, got in alone.items() if differing(right, got)]
    for hole in guilty or there:
        states[hole] = "wrong" if guilty else "unclear"
    # one mistake may stand in several bodies
    if len(guilty) != 1 and (not guilty or recognise(exercise, whole, seed, guilty, entirely=True)[0]):
        report.finding = find(exercise, whole, seed, guilty or None)
    else:
        rest = [name for name in right if name not in wrong]  # another body may have hidden what is wrong there
        got = alone[guilty[0]] | (single(subject, guilty[0], there, rest) if len(there) > 1 else {})
        report.finding = find(exercise, got, seed, guilty[:1])
    return report


def single(subject, hole, there, only):
    """Observations of one body among the project's own; or with its class, where that has attributes of other names."""
    got = subject.observe([hole], True, only)
    if any(isinstance(v, dict) and str(v.get("error")).startswith("AttributeError") for v in got.values()):
        owner = hole.rpartition(".")[0]
        return subject.observe([h for h in there if h.rpartition(".")[0] == owner], True, only)
    return got


def diagnose(name, *given, house=None, group=None):
    """The report on classes and functions, or on the path of a file. Nothing is protected here: see `sandbox`.

    group: if this group of observations of classes and functions is right, look no further.

    Raises ValueError for an unknown exercise, or where nothing that it asks for was given.
    """
    if len(given) == 1 and isinstance(given[0], str | os.PathLike):
        exercise, path = shelf.get(name), Path(given[0])
        try:
            text = source.text_of(path)
            return judge(exercise, text, Subject(exercise, text, house), house)
        except source.Unreadable as error:
            return Report(exercise, {}, problem=str(error))
    subject = Handed(shelf.get(name), given, house)
    return weigh(subject.exercise, subject.holes, list(subject.bodies), subject, house, group)


def check(name, *given, house=None, hints=None):
    """Say whether a solution is right, and if not, what is wrong and which mistake it looks like.

    Args:
        name: of the exercise, followed by your classes and functions; or the path of a file or notebook alone.
        hints: how much to tell, 1 to 4; by default all, or what MINIPEFT_HINTS says.
    """
    if not given:
        name, given = exercise_of(Path(name)), (name,)
    report = diagnose(name, *given, house=house)
    print(report.text(hints_wanted(hints)))
    if report.finding and report.finding.pair and in_notebook():
        from minipeft import plots

        plots.differs(*(np.array(v["data"]).reshape(v["shape"]) for v in report.finding.pair))
        plots.plt.show()


def expect(name, *given, house=None, group=None, hints=None):
    """Nothing if a solution is right (or that group of its observations), AssertionError with the diagnosis if not."""
    report = diagnose(name, *given, house=house, group=group)
    groups = report.groups()
    if group is not None and group not in groups:
        raise ValueError(f"exercise {name!r} has no group {group!r}; there are: {', '.join(groups)}")
    good = report.passed if group is None else groups[group]
    if not good:
        raise AssertionError(report.text(hints_wanted(hints)))


def exercise_of(path):
    """The exercise that a file is about. ValueError if it is about none."""
    if names := exercises_named(path, source.text_of(path)):
        return names[0]
    raise ValueError(f"which exercise is {path}? Name the file after it; there are: {', '.join(shelf.exercises())}")


def exercises_named(path, text):
    """The exercises that a file holds: by its name, the first line that `start` writes, each `check("…")` in it."""
    told = re.findall(r"^# minipeft exercise: (\w+)", text)
    called = re.findall(r"\b(?:check|expect)\(\s*[\"'](\w+)", text)
    return [name for name in dict.fromkeys([path.stem, *told, *called]) if name in shelf.exercises()]


def hints_wanted(hints):
    return int(os.environ.get("MINIPEFT_HINTS", 4)) if hints is None else hints


def in_notebook():
    with contextlib.suppress(ImportError, NameError):
        from IPython import get_ipython

        return getattr(get_ipython(), "kernel", None) is not None
    return False
