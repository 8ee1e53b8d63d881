"""Finding and reading what was handed in: a folder or a file for each student, read and never run.

Whatever lies in a student's folder, the student gets a row: what cannot be graded is refused with a sentence.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from minipeft.classroom.engine import check, reading
from minipeft.classroom.engine.exercise import exercises
from minipeft.classroom.grading.names import look_alikes, shown

SUFFIXES = (".py", ".ipynb")
CHARACTERS = 200_000  # of Python in one file; the longest reference has 20,000
FILES, BYTES = 1000, 50_000_000  # of one student, all together


@dataclass
class Submission:
    """What one student handed in.

    files: {exercise: path}. refused: {exercise: why it is not graded}. problem: why nothing is graded.
    strange: files that belong to no exercise. flags: sentences for the teacher.
    """

    files: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    strange: list[Path] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


def collect(folder, names=None):
    """{student: Submission}. A student is a folder, or a single .py or .ipynb file.

    A file belongs to the exercise that it is named after, that its first line tells, or that it calls `check` for.
    names: the exercises that count. Raises ValueError if nothing was handed in.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ValueError(f"{folder} is not a folder; give the one that holds a folder or a file for each student")
    places = {}
    for entry in sorted(root.iterdir(), key=lambda path: os.fsencode(path.name)):
        if hidden(entry.name) or not (entry.is_dir() or entry.suffix in SUFFIXES):
            continue
        places.setdefault(entry.name if entry.is_dir() else entry.stem, []).append(entry)
    if not places:
        raise ValueError(f"there is no submission in {folder}: no folder, no .py and no .ipynb file")
    found = {student: handed_in(entries, names) for student, entries in places.items()}
    for student, others in look_alikes(list(found)).items():
        found[student].flags.append(f"the name looks like {', '.join(shown(other) for other in others)}")
    return found


def hidden(name):
    return name.startswith((".", "__"))


def handed_in(entries, names):
    """The Submission that these folders and files of one name make up."""
    mine, found = Submission(), {}
    paths, mine.problem = files_of(entries, mine)
    for path in [] if mine.problem else paths:
        about = exercises_in(path)
        if not about:
            mine.strange.append(path)
        for name in about:
            if names is None or name in names:
                found.setdefault(name, []).append(path)
    for name, several in found.items():
        if len(several) == 1:
            mine.files[name] = several[0]
        else:
            both = ", ".join(shown(inside(path, entries)) for path in several)
            mine.refused[name] = f"there are {len(several)} files for it, and only one may be handed in: {both}"
            mine.flags.append(f"{name}: {mine.refused[name]}")
    if mine.strange:
        some = ", ".join(shown(inside(path, entries)) for path in mine.strange[:3])
        more = f" and {len(mine.strange) - 3} more" if len(mine.strange) > 3 else ""
        mine.flags.append(f"belongs to no exercise: {some}{more}")
    mine.flags += [mine.problem] * bool(mine.problem)
    return mine


def files_of(entries, mine):
    """(the student's .py and .ipynb files, why none of them is taken). What is left out is told in `mine.flags`."""
    paths, seen, size = [], 0, 0
    for path in walk(entries, mine):
        seen += 1
        if seen > FILES:
            return (
                [],
                f"there are more than {FILES:,} files; hand in the exercises alone, without environments and data",
            )
        if path.suffix not in SUFFIXES and not (path.is_symlink() and path.is_dir()):
            continue
        if why := unfit(path):
            mine.flags.append(f"{shown(inside(path, entries))} is not read: {why}")
            if path.stem in exercises():
                mine.refused[path.stem] = f"{shown(inside(path, entries))} is not read: {why}"
            continue
        paths.append(path)
        size += path.stat().st_size
        if size > BYTES:
            return [], f"there are more than {BYTES:,} bytes of Python and notebooks; hand in the exercises alone"
    return paths, ""


def walk(entries, mine):
    """Every file below these entries, hidden ones left out. Links to folders are not followed."""
    for entry in entries:
        if entry.is_symlink() or not entry.is_dir():
            yield entry
            continue
        for place, folders, files in os.walk(entry, onerror=lambda error: cannot_be_read(error, entries, mine)):
            folders[:] = sorted(name for name in folders if not hidden(name))
            yield from (path for name in folders if (path := Path(place, name)).is_symlink())
            yield from (Path(place, name) for name in sorted(files) if not hidden(name))


def cannot_be_read(error, entries, mine):
    mine.flags.append(f"{shown(inside(error.filename, entries))} cannot be read")


def inside(path, entries):
    """A path as the student knows it."""
    path = Path(path)
    return next((str(path.relative_to(e)) for e in entries if path != e and path.is_relative_to(e)), path.name)


def unfit(path):
    """Why a file is not to be read, or "": a link can lead to another student's work."""
    try:
        state = path.lstat()
    except OSError as error:
        return error.strerror
    if stat.S_ISLNK(state.st_mode):
        return "it is a link; hand in the file itself"
    if not stat.S_ISREG(state.st_mode):
        return "it is no plain file"
    if state.st_nlink > 1:
        return "it is a hard link, the same file stands elsewhere too; hand in a copy"
    return ""


def exercises_in(path):
    try:
        text = readable(path)
    except (reading.Unreadable, OSError):
        return [path.stem] if path.stem in exercises() else []
    return check.exercises_named(path, text)


def readable(path):
    """The Python text of a file. Raises Unreadable, with what to tell the student, or OSError."""
    try:
        text = reading.text_of(path)
    except (RecursionError, MemoryError):
        raise reading.Unreadable(f"{path.name} is nested too deeply to be read") from None
    if len(text) > CHARACTERS:
        raise reading.Unreadable(f"{path.name} is too large: {len(text):,} characters of Python")
    return text
