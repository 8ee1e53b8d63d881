"""A student's desk: start an exercise, check a file in a child process, see how far one has come."""

import hashlib
import textwrap
from dataclasses import dataclass
from pathlib import Path

import minipeft.classroom.diary as diary
from minipeft.classroom.diary import FOLDER
from minipeft.classroom.engine import check, reading, source
from minipeft.classroom.engine.diagnose import judge
from minipeft.classroom.engine.exercise import exercises, get_exercise
from minipeft.classroom.engine.observe import work_in
from minipeft.classroom.engine.report import Report
from minipeft.classroom.grading.sandbox import Child, Stopped
from minipeft.files import write_atomically


def start(name, folder=FOLDER, seed=None):
    """Write the file of an exercise, with its bodies empty. Returns its path.

    Raises FileExistsError rather than touch a file that is there; ValueError for an unknown exercise.
    """
    exercise = get_exercise(name)
    path = Path(folder) / f"{name}.py"
    if path.exists():
        raise FileExistsError(f"{path} is there already and stays as it is; move it away to start again")
    text = sheet(exercise, path, seed)  # a seed that cannot be is refused before anything is made
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    return path


def sheet(exercise, path, seed=None):
    """The text of a fresh file: a head that says what to do, then the reference with its bodies empty."""
    rules = exercise.chosen(seed)
    head = [f"# minipeft exercise: {exercise.name}{f' (variant {seed})' if rules else ''}"]
    head += [f"# {exercise.title}. About {exercise.minutes} minutes."]
    head += [f'# Write what says "your turn": {", ".join(exercise.stubs)}.']
    head += [f"# A rule of your teacher's, unlike the paper's: {variant.rule}." for variant in rules]
    head += [f"# To read: {exercise.read}.", f"# Check it: python -m minipeft check {path.as_posix()}"]
    head = [line for long in head for line in textwrap.wrap(long, 116, subsequent_indent="#   ")]
    return "\n".join([*head, source.emptied(exercise.reference(seed), exercise.stubs, exercise.hidden)])


def check_file(path, name=None, seed=None, limits=None, only=None):
    """The report on a file or notebook, whose code runs in a child process. Its result is noted beside the file.

    only: one body that is asked for; what stands there beside it is then the project's own.
    """
    path = Path(path)
    if not path.is_file():
        ready = path.stem if path.stem in exercises() else "NAME"
        raise FileNotFoundError(f"there is no {path}; begin it with: python -m minipeft start {ready}")
    exercise = get_exercise(name or check.exercise_of(path))
    if only is not None and only not in exercise.stubs:
        raise ValueError(f"{exercise.name} does not ask for {only}; it asks for: {', '.join(exercise.stubs)}")
    try:
        text = reading.text_of(path)
        seed = reading.variant_of(text) if seed is None else seed
        work = work_in(exercise, text, seed, only)
        with Child(exercise.name, text, seed, limits) as subject:
            report = judge(work, subject)
    except (reading.Unreadable, Stopped) as problem:
        return Report(exercise, {}, problem=str(problem))
    if only is None:
        points = sum(report.groups().values())
        note(path, text=mark(text), points=points, passed=report.passed)
    return report


def hints_for(path, report, hints=None):
    """How much to tell of a report on a file: more each time that the same is found; see `check.hints_wanted`."""
    seen = {} if report.passed else notes_of(path).get("seen", {})
    wanted = check.hints_wanted(hints, report, seen)
    note(path, seen=seen)
    return wanted


# -- what is noted beside a student's files ---------------------------------------------------------------------------


def notes_of(path):
    """What is noted of a file: `text` and `points` of the last check, did it pass, how often a finding was seen."""
    return diary.book_of(path.parent).get(path.name, {})


def note(path, **what):
    diary.note(path.parent, path.name, **what)


def mark(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class State:
    """How far a student is with an exercise: in words, and the share of its points at the last check."""

    words: str = ""
    share: float = 0.0


def progress(folder=FOLDER):
    """{exercise: State}"""
    return {name: state(exercise, Path(folder)) for name, exercise in exercises().items()}


def state(exercise, folder):
    path = next((p for s in (".py", ".ipynb") if (p := folder / f"{exercise.name}{s}").is_file()), None)
    if path is None:
        right = [stub for stub in diary.right_in_a_notebook(folder, exercise.name) if stub in exercise.stubs]
        return State(f"{len(right)} of {len(exercise.stubs)} in a notebook", 0.0) if right else State()
    try:
        text = reading.text_of(path)
        written = reading.written(reading.parsed(text), exercise.stubs)
    except reading.Unreadable:
        return State("cannot be read")
    last, full = notes_of(path), len(exercise.groups)
    share = last.get("points", 0) / full
    if last.get("text") != mark(text):
        return State(f"{len(written)} of {len(exercise.stubs)} written", share)
    return State("right" if last["passed"] else f"{last['points']} of {full} points", share)
