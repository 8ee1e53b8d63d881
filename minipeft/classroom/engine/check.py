"""Checking in a notebook or a test.

check("lora", LoRALinear)      prints the diagnosis, draws what differs; use=True: and minipeft runs on it, if right
check("work/lora.py")          the same for a file or notebook
expect("lora", LoRALinear)     the same as an assertion, for graders
diagnose("lora", LoRALinear)   the report itself

The student's code runs in this process; the command line and the grader check files in a child process.
"""

import contextlib
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

import minipeft.classroom.diary as diary
from minipeft.arguments import got
from minipeft.classroom.engine import reading
from minipeft.classroom.engine.compare import differing
from minipeft.classroom.engine.diagnose import judge
from minipeft.classroom.engine.exercise import exercises, get_exercise
from minipeft.classroom.engine.observe import Handed, Subject, work_in
from minipeft.classroom.engine.recognise import expected
from minipeft.classroom.engine.report import Report

attempts = Counter()  # how often this process has seen a finding


def diagnose(name, *given, variant=None, whole=True):
    """The report on classes and functions, or on the path of a file.

    whole: is a class that is made from the project's own asked for the bodies, too, that it inherits from it?

    Raises ValueError for an unknown exercise, or where nothing that it asks for was given.
    """
    exercise = get_exercise(name)
    if len(given) == 1 and isinstance(given[0], str | os.PathLike):
        try:
            text = reading.text_of(Path(given[0]))
            seed = reading.variant_of(text) if variant is None else variant
            return judge(work_in(exercise, text, seed), Subject(exercise, text, seed))
        except reading.Unreadable as error:
            return Report(exercise, {}, problem=str(error))
    subject = Handed(exercise, given, variant, whole)
    return judge(subject.work, subject)


def check(name, *given, variant=None, hints=None, use=False):
    """Say whether a solution is right, and if not, what is wrong and which mistake it looks like.

    Args:
        name: of the exercise, followed by your classes and functions; or the path of a file or notebook alone. A class
            that is made from the project's own is asked for what stands in it.
        hints: how much to tell, 1 (the symptom) to 4 (everything). By default what MINIPEFT_HINTS says, else one more
            each time that you check and the same is still wrong.
        use: of classes and functions: if they are right, let minipeft itself run on them from here on.
    """
    if not isinstance(name, str | Path):
        raise ValueError(f"check takes the name of the exercise first, check('lora', LoRALinear), got {got(name)}")
    if not given and name in exercises():
        raise ValueError(f"what shall be checked? Write check({name!r}, YourClass), or the path of your file alone")
    if not given:
        name, given = exercise_of(Path(name)), (name,)
    report = diagnose(name, *given, variant=variant, whole=False)
    print(report.text(hints_wanted(hints, report, attempts)))
    if report.finding and report.finding.pair and in_notebook():
        from minipeft import plots

        plots.differences(*(np.array(v["data"]).reshape(v["shape"]) for v in report.finding.pair))
        plots.plt.show()
    right = [stub for stub, state in report.stubs.items() if state == "right"] if report.passed else []
    if right and in_notebook():
        before = diary.book_of(diary.nearest()).get("notebook", {}).get(name, [])
        diary.note(diary.nearest(), "notebook", **{name: sorted({*before, *right})})
    if use:
        import minipeft.classroom.using as using

        using.adopt(name, *given) if right else using.give_back(name, given=given)
        whose = ", ".join(right or report.stubs)
        print(f"What follows runs on {'your' if right else 'our'} {whose}{'' if right else ', until yours is right'}.")


def expect(name, *given, variant=None, group=None, hints=None):
    """Nothing if a solution is right (or that group of its observations), AssertionError with the diagnosis if not."""
    exercise = get_exercise(name)
    if group is not None:
        if group not in exercise.groups:
            raise ValueError(f"exercise {name!r} has no group {group!r}; there are: {', '.join(exercise.groups)}")
        if is_right(Handed(exercise, given, variant), group):
            return
    report = diagnose(name, *given, variant=variant)
    if not (report.passed if group is None else report.groups()[group]):
        raise AssertionError(report.text(hints_wanted(hints)))


def is_right(subject, group):
    """Is a group of observations right? Nothing else is looked at, because another body may run for ever."""
    if set(subject.work.written) != set(subject.work.asked):
        return False
    names = [o.name for o in subject.exercise.observations if o.group == group]
    right = expected(subject.exercise, subject.work.seed)
    return not differing({n: right[n] for n in names}, subject.observe(subject.work.written, True, names))


def exercise_of(path):
    """The exercise that a file is about. ValueError if it is about none."""
    if names := exercises_named(path, reading.text_of(path)):
        return names[0]
    raise ValueError(f"which exercise is {path}? Name the file after it; there are: {', '.join(exercises())}")


def exercises_named(path, text):
    """The exercises that a file holds: by its name, the first line that `start` writes, each `check("…")` in it."""
    told = re.findall(r"^# minipeft exercise: (\w+)", text)
    called = re.findall(r"\b(?:check|expect)\(\s*[\"'](\w+)", text)
    return [name for name in dict.fromkeys([path.stem, *told, *called]) if name in exercises()]


def hints_wanted(hints, report=None, seen=None):
    """How much to tell: as asked, or as MINIPEFT_HINTS says, or one more each time that a finding is seen again.

    seen: {finding: how often}, which is counted up; without it everything is told.
    """
    hints = os.environ.get("MINIPEFT_HINTS") or None if hints is None else hints
    if hints is not None:
        if str(hints) not in ("1", "2", "3", "4"):
            raise ValueError(f"hints (and MINIPEFT_HINTS) are a number from 1 to 4, got {hints!r}")
        return int(hints)
    if seen is None or not report.finding:
        return 4
    key = f"{report.exercise.name} {report.finding.stub} {report.finding.observation}"
    seen[key] = seen.get(key, 0) + 1
    return min(seen[key], 4)


def in_notebook():
    with contextlib.suppress(ImportError, NameError):
        from IPython import get_ipython

        return getattr(get_ipython(), "kernel", None) is not None
    return False
