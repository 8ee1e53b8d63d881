"""One look at a text: a student's code runs in a child process of this machine, and a Result without a name comes out.

The machine may be another one than the teacher's: then `look_elsewhere` first makes sure that as much stands around the
code there as here.
"""

import multiprocessing
import platform

from minipeft.classroom.engine import reading
from minipeft.classroom.engine.diagnose import judge
from minipeft.classroom.engine.exercise import get_exercise
from minipeft.classroom.engine.observe import work_in
from minipeft.classroom.grading import alike
from minipeft.classroom.grading.confine import strength
from minipeft.classroom.grading.journal import FAILED, Result
from minipeft.classroom.grading.sandbox import Child, Stopped
from minipeft.lab.executors import Unfit


def look_elsewhere(wanted, *job):
    """`look` on another machine. Raises Unfit if less confines a student's code there than is `wanted`."""
    for what, least in wanted.items():
        if (there := strength()[what]) < least:
            raise Unfit(
                f"the worker {platform.node()} cannot confine a student's code as the teacher's machine does ({what}: "
                f"{there}, not {least}): grade on machines whose kernels are as new, or without --executor"
            )
    if multiprocessing.current_process().daemon:
        raise Unfit(
            f"the worker {platform.node()} may not start processes, and a student's code needs one of its own: start "
            "Dask workers with --no-nanny"
        )
    return look(*job)


def look(name, text, seed, limits):
    """The Result of a text for this exercise, of nobody yet. Whatever the code does, there is one."""
    exercise, result = get_exercise(name), blank(name)
    try:
        result.bodies = alike.bodies(text, exercise, seed)
        told = reading.variant_of(text)
        if told and told != seed and exercise.variants:
            asked = f"under {seed!r}" if seed else "without variants"
            result.flags.append(f"the file was started with the variants {clean(told)!r} and is graded {asked}")
        fill(result, exercise, judged(result, exercise, text, seed, limits))
    except Exception as problem:  # whatever it is, the others are graded
        explain(result, problem)
    result.texts, result.output = [clean(text) for text in result.texts], clean(result.output)
    result.flags = [clean(flag) for flag in result.flags]
    return result


def blank(name):
    return Result("", name, "", dict.fromkeys(get_exercise(name).groups, False), [])


def without_points(name, problem):
    """The Result, of nobody yet, where a problem came before any look."""
    result = blank(name)
    explain(result, problem)
    result.texts, result.flags = [clean(text) for text in result.texts], [clean(flag) for flag in result.flags]
    return result


def explain(result, problem):
    """Note in the result why there are no points."""
    if isinstance(problem, Stopped | reading.Unreadable):
        result.texts = [f"{result.exercise}: {problem}"]
        return
    kind = type(problem).__name__
    result.state, result.texts = FAILED, [f"{result.exercise}: this could not be looked at ({kind})"]
    result.flags.append(f"the grader failed at it, and tries again in the next run: {kind}: {problem}")


def judged(result, exercise, text, seed, limits):
    """The report on a text whose code runs in a child process; what it printed and what was odd goes to the result."""
    child = Child(exercise.name, text, seed, limits, "forkserver")
    try:
        with child:
            return judge(work_in(exercise, text, seed), child)
    finally:
        result.output = child.output
        result.flags += child.flags


def fill(result, exercise, report):
    """Take over what a report says."""
    texts = [report.text(hints) for hints in (1, 2, 3, 4)]
    result.texts = texts if len(set(texts)) > 1 else texts[:1]
    result.stubs = dict(report.stubs)
    if not report.problem:
        result.groups = report.groups()
    result.findings = [[f.stub, f.observation, f.mistake and f.mistake.id] for f in report.findings]


def clean(text):
    """Text of a student without control characters."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")[:6000]
