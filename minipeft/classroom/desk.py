"""A student's desk: start an exercise, see how far one has come, check a file in a child process."""

import hashlib
import json
import textwrap
from pathlib import Path

from minipeft.classroom.engine import check, source
from minipeft.classroom.engine.diagnose import judge
from minipeft.classroom.engine.exercise import exercises, get_exercise
from minipeft.classroom.engine.observe import work_in
from minipeft.classroom.engine.report import Report
from minipeft.classroom.grading.sandbox import Child, Stopped

FOLDER = Path("work")


def start(name, folder=FOLDER, seed=None):
    """Write the file of an exercise, with its bodies empty. Returns its path.

    Raises FileExistsError rather than touch a file that is there; ValueError for an unknown exercise.
    """
    exercise = get_exercise(name)
    path = Path(folder) / f"{name}.py"
    if path.exists():
        raise FileExistsError(f"{path} is there already and stays as it is; move it away to start again")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(sheet(exercise, path, seed), encoding="utf-8")
    return path


def sheet(exercise, path, seed=None):
    """The text of a fresh file: a head that says what to do, then the reference with its bodies empty."""
    rules = exercise.chosen(seed)
    head = [f"# minipeft exercise: {exercise.name}{f' (variants {seed})' if rules else ''}"]
    head += [f"# {exercise.title}. About {exercise.minutes} minutes."]
    head += [f'# Write what says "your turn": {", ".join(exercise.stubs)}.']
    head += [f"# A rule of your teacher's, unlike the paper's: {variant.rule}." for variant in rules]
    head += [f"# To read: {exercise.read}.", f"# Check it: python -m minipeft check {path.as_posix()}"]
    head = [line for long in head for line in textwrap.wrap(long, 116, subsequent_indent="#   ")]
    return "\n".join([*head, source.emptied(exercise.reference(seed), exercise.stubs, exercise.hidden)])


def check_file(path, name=None, seed=None, limits=None):
    """The report on a file or notebook, whose code runs in a child process. Remembers beside it whether it passed."""
    path = Path(path)
    if not path.is_file():
        ready = path.stem if path.stem in exercises() else "NAME"
        raise FileNotFoundError(f"there is no {path}; begin it with: python -m minipeft start {ready}")
    exercise = get_exercise(name or check.exercise_of(path))
    try:
        text = source.text_of(path)
        seed = source.variant_of(text) if seed is None else seed
        source.parsed(text)
        with Child(exercise.name, text, seed, limits) as subject:
            report = judge(work_in(exercise, text, seed), subject)
    except (source.Unreadable, Stopped) as problem:
        return Report(exercise, {}, problem=str(problem))
    remember(path, text, report.passed)
    return report


def mark(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def remember(path, text, passed):
    book = path.parent / ".progress.json"
    try:
        known = json.loads(book.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known[path.name] = {"text": mark(text), "passed": passed}
    try:
        book.write_text(json.dumps(known, indent=1), encoding="utf-8")
    except OSError:
        return  # a folder that cannot be written to; nothing is lost but a tick in a list


def progress(folder=FOLDER):
    """{exercise: "", "2 of 7 written", "written, to be checked" or "right"}"""
    folder = Path(folder)
    try:
        known = json.loads((folder / ".progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    return {name: state(exercise, folder, known) for name, exercise in exercises().items()}


def state(exercise, folder, known):
    path = next((p for s in (".py", ".ipynb") if (p := folder / f"{exercise.name}{s}").is_file()), None)
    if path is None:
        return ""
    try:
        text = source.text_of(path)
        written = source.written(source.parsed(text), exercise.stubs)
    except source.Unreadable:
        return "cannot be read"
    last = known.get(path.name, {})
    if last.get("text") == mark(text):
        return "right" if last["passed"] else f"{len(written)} of {len(exercise.stubs)} written, not right yet"
    if len(written) < len(exercise.stubs):
        return f"{len(written)} of {len(exercise.stubs)} written"
    return "written, to be checked"
