"""Checking: observe, compare with the reference, and say in words what is wrong and which mistake it looks like.

check("lora", LoRALinear)      in a notebook: prints the diagnosis, draws what differs
check("work/lora.py")          a file or notebook
expect("lora", LoRALinear)     the same as an assertion, for graders

The child process of a grader only observes; the comparing and judging is done here, by the parent, on plain numbers.
"""

import contextlib
import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from minipeft.arguments import got
from minipeft.classroom.engine import source
from minipeft.classroom.engine.compare import difference, differing, drawable, same
from minipeft.classroom.engine.exercise import Mistake, edited, exercises, get_exercise
from minipeft.classroom.engine.observe import Handed, Subject, observe

PLAIN = "plain rule"


@dataclass
class Finding:
    """What is wrong: the first observation that differs, and the mistake it looks like, if that is clear."""

    observation: str
    symptom: str
    mistake: object = None
    stub: str | None = None
    pair: tuple | None = None  # expected and got, where both are numbers of one shape


@dataclass
class Report:
    """The result of a check. `stubs`: {name: "right", "wrong", "not written yet" or "unclear"}."""

    exercise: object
    stubs: dict[str, str]
    right: list[str] = field(default_factory=list)  # names of the observations that agree
    finding: Finding | None = None
    problem: str | None = None  # the text could not be read, or no numbers came back
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self):
        return not self.finding and not self.problem and all(state == "right" for state in self.stubs.values())

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
        empty = [name for name, state in self.stubs.items() if state == "not written yet"]
        if len(empty) == len(self.stubs):
            return f"{x.name}: not written yet ({', '.join(empty)})"
        lines = [f"{x.name}: {'not right yet' if self.finding else 'right so far, not written to the end'}"]
        marks = {"right": "✓", "wrong": "✗", "not written yet": "·", "unclear": "?"}
        lines += [
            f"  {marks[s]} {name}{'' if s in ('right', 'wrong', 'unclear') else '  ' + s}"
            for name, s in self.stubs.items()
        ]
        if f := self.finding:
            lines.append(f"{f.stub + ': ' if f.stub else ''}{f.symptom}")
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
def broken(exercise, mistake, seed=None, form=0):
    """The reference with a mistake of the bank in it, or None if a variant leaves no place for it."""
    if mistake.id == PLAIN:  # the plain bodies in the file that tells another rule, as a student would hand them in
        plain_bodies, x = source.parsed(exercise.plain()), exercise
        return source.load(source.splice(x.tree(seed), plain_bodies, x.stubs, x.stubs, True), PLAIN)
    try:
        text = edited(exercise.reference(seed), mistake.every_form[form])
    except ValueError:
        return None
    return source.load(source.ast.parse(text), mistake.id, text)


def with_mistake(name, mistake):
    """The module of an exercise with a known mistake in it, by the mistake's name in the bank."""
    exercise = get_exercise(name)
    known = {m.id: m for m in exercise.mistakes}
    if mistake not in known:
        raise ValueError(f"the bank of {name!r} has no mistake {mistake!r}; it has: {', '.join(known)}")
    return broken(exercise, known[mistake])


@cache
def symptom(exercise, mistake, name, seed=None, form=0):
    """What one observation sees of a mistake."""
    return observe(exercise, broken(exercise, mistake, seed, form), [name])[name]


@cache
def bank(exercise, seed=None):
    """The known mistakes; under a variant the plain rule is one, and the first."""
    if not exercise.chosen(seed):
        return list(exercise.mistakes)
    rule = "; ".join(h.rule for h in exercise.chosen(seed))
    plain_rule = Mistake(
        PLAIN, (), "the rule of the paper, where your teacher asks for another",
        "what does the text of this exercise ask for?", f"Here {rule}.",
    )  # fmt: skip
    return [plain_rule, *exercise.mistakes]


def recognise(exercise, got, seed=None, stubs=None, entirely=False):
    """(the mistake that these observations look like, the names of those that it explains), or (None, []).

    That is one whose symptoms are all among these; the one that explains most of them, if no other does as well.
    stubs: look first among the mistakes in these bodies. entirely: it has to explain all of them.
    """
    if stubs:
        inside = [(m, i) for m, i in forms(exercise, seed) if exercise.touched(m.every_form[i], seed) <= set(stubs)]
        if (found := best(exercise, inside, got, seed, entirely))[0]:
            return found
    return best(exercise, forms(exercise, seed), got, seed, entirely)


def forms(exercise, seed):
    """Every mistake in each of its forms: [(mistake, number of the form)]"""
    return [(m, i) for m in bank(exercise, seed) for i in range(len(m.every_form))]


def best(exercise, candidates, got, seed, entirely):
    least = len(differing(expected(exercise, seed), got)) if entirely else 1
    found = {}
    for m, form in candidates:
        names = explained(exercise, m, got, seed, form)
        if len(names) >= max(least, len(found.get(m, ()))):
            found[m] = names
    most = max(map(len, found.values()), default=0)
    first, *others = [(m, names) for m, names in found.items() if len(names) == most] or [(None, [])]
    return (None, []) if others else first


def explained(exercise, mistake, got, seed=None, form=0):
    """Which of the wrong observations a mistake explains; none as soon as it has a symptom that is not there.

    An error hides what would be seen otherwise: it speaks neither for the mistake nor against it, unless there are more
    errors than symptoms.
    """
    right = expected(exercise, seed)
    if broken(exercise, mistake, seed, form) is None:
        return []
    wrong, names, unseen = differing(right, got), [], 0
    for name in [*wrong, *(n for n in right if n not in wrong)]:
        if name not in wrong and not names:
            return []
        value = symptom(exercise, mistake, name, seed, form)
        if not same(value, right[name]):
            if same(value, got.get(name)) or (name in mistake.any_value and name in wrong and not fails(got[name])):
                names.append(name)
            elif fails(got.get(name)):
                unseen += 1
            else:
                return []
    return names if len(names) >= unseen else []


def fails(value):
    """Did an observation end in an error?"""
    return isinstance(value, dict) and "error" in value


def find(exercise, got, seed=None, stubs=None):
    """The finding for observations that are not all right: the first, or the first that a known mistake explains."""
    right = expected(exercise, seed)
    mistake, names = recognise(exercise, got, seed, stubs)
    first = (names or differing(right, got))[0]
    o = next(o for o in exercise.observations if o.name == first)
    said = f"{o.says} {difference(right[first], got.get(first))}"
    stub = stubs[0] if stubs and len(stubs) == 1 else None
    return Finding(first, said, mistake, stub, drawable(right[first], got.get(first)))


def judge(exercise, text, subject, seed=None):
    """The report on a text. subject: who is asked for observations, a `Subject` or the grader's line to one."""
    tree = source.parsed(text)
    there = source.written(tree, exercise.stubs)
    suspects = source.changed(tree, exercise.tree(seed), there)
    report = weigh(exercise, exercise.stubs, there, subject, seed, suspects=suspects)
    report.notes += [f"({said})" for said in source.notes(text, tree, exercise.tree(seed), exercise.stubs)]
    return report


def weigh(exercise, asked, there, subject, seed=None, group=None, suspects=None):
    """The report on those bodies that are `there`, of those that were `asked` for.

    group: if this group of observations is right, look no further; another body may run for ever.
    suspects: bodies that are not the project's own word for word; None if that cannot be told.

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
    suspects = suspects or there
    one = len(suspects) == 1
    alone = {h: whole if one else right | single(subject, h, there, wrong) for h in suspects}
    guilty = [stub for stub, got in alone.items() if differing(right, got)]
    for stub in guilty or suspects:
        states[stub] = "wrong" if guilty else "unclear"
    # one mistake may stand in several bodies
    if len(guilty) != 1 and (not guilty or recognise(exercise, whole, seed, guilty, entirely=True)[0]):
        report.finding = find(exercise, whole, seed, guilty or None)
    else:
        rest = [name for name in right if name not in wrong]  # another body may have hidden what is wrong there
        got = whole if one else alone[guilty[0]] | single(subject, guilty[0], there, rest)
        report.finding = find(exercise, got, seed, guilty[:1])
    return report


def single(subject, stub, there, only):
    """Observations of one body among the project's own; or with its class, where that has attributes of other names."""
    got = subject.observe([stub], True, only)
    if any(isinstance(v, dict) and str(v.get("error")).startswith("AttributeError") for v in got.values()):
        owner = stub.rpartition(".")[0]
        return subject.observe([h for h in there if h.rpartition(".")[0] == owner], True, only)
    return got


def diagnose(name, *given, variant=None, group=None):
    """The report on classes and functions, or on the path of a file. Nothing is protected here: see `sandbox`.

    group: if this group of observations of classes and functions is right, look no further.

    Raises ValueError for an unknown exercise, or where nothing that it asks for was given.
    """
    if len(given) == 1 and isinstance(given[0], str | os.PathLike):
        exercise, path = get_exercise(name), Path(given[0])
        try:
            text = source.text_of(path)
            variant = source.variant_of(text) if variant is None else variant
            return judge(exercise, text, Subject(exercise, text, variant), variant)
        except source.Unreadable as error:
            return Report(exercise, {}, problem=str(error))
    subject = Handed(get_exercise(name), given, variant)
    return weigh(subject.exercise, subject.stubs, list(subject.bodies), subject, variant, group)


def check(name, *given, variant=None, hints=None):
    """Say whether a solution is right, and if not, what is wrong and which mistake it looks like.

    Args:
        name: of the exercise, followed by your classes and functions; or the path of a file or notebook alone.
        hints: how much to tell, 1 to 4; by default all, or what MINIPEFT_HINTS says.
    """
    if not isinstance(name, str | Path):
        raise ValueError(f"check takes the name of the exercise first, check('lora', LoRALinear), got {got(name)}")
    if not given and name in exercises():
        raise ValueError(f"what shall be checked? Write check({name!r}, YourClass), or the path of your file alone")
    if not given:
        name, given = exercise_of(Path(name)), (name,)
    report = diagnose(name, *given, variant=variant)
    print(report.text(hints_wanted(hints)))
    if report.finding and report.finding.pair and in_notebook():
        from minipeft import plots

        plots.differences(*(np.array(v["data"]).reshape(v["shape"]) for v in report.finding.pair))
        plots.plt.show()


def expect(name, *given, variant=None, group=None, hints=None):
    """Nothing if a solution is right (or that group of its observations), AssertionError with the diagnosis if not."""
    report = diagnose(name, *given, variant=variant, group=group)
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
    raise ValueError(f"which exercise is {path}? Name the file after it; there are: {', '.join(exercises())}")


def exercises_named(path, text):
    """The exercises that a file holds: by its name, the first line that `start` writes, each `check("…")` in it."""
    told = re.findall(r"^# minipeft exercise: (\w+)", text)
    called = re.findall(r"\b(?:check|expect)\(\s*[\"'](\w+)", text)
    return [name for name in dict.fromkeys([path.stem, *told, *called]) if name in exercises()]


def hints_wanted(hints):
    return int(os.environ.get("MINIPEFT_HINTS", 4)) if hints is None else hints


def in_notebook():
    with contextlib.suppress(ImportError, NameError):
        from IPython import get_ipython

        return getattr(get_ipython(), "kernel", None) is not None
    return False
