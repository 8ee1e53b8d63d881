"""The journal of a class: what was found out is written down at once, so that nothing is lost and nothing done twice.

One JSON object a line, only ever added to:

    {"class": {student: [flags]}, "exercises": [...], "variant": ...}    a run begins
    {"began": [student, exercise, key]}                                  ... with one exercise of one student
    {"left": [student, exercise, key]}                                   the run was interrupted, no fault of theirs
    {"student": ..., "exercise": ..., "key": ..., ...}                   a Result

Where something began and neither ended nor was left, the grader itself was killed by it: a later run leaves it out.
"""

import json
import threading
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

GRADED, MISSING, REFUSED, SKIPPED, FAILED = "graded", "not handed in", "refused", "skipped", "failed"


@dataclass
class Result:
    """One exercise of one student.

    key: what the result depends on. groups: {group of observations: right or not}, a point each.
    texts: the diagnosis at each level of hints, or a sentence alone. output: what the code printed.
    stubs: {body: "right", "wrong", "not written yet", "unclear"}. findings: [[body, what differs, the id of the known
    mistake that it looks like, or None]], one for each body that is wrong.
    bodies: {body: [hash, size]}, to tell which are alike; see `alike`. flags: sentences for the teacher.
    handed_in: seconds since 1970, by the time of the file.
    """

    student: str
    exercise: str
    key: str
    groups: dict[str, bool]
    texts: list[str]
    output: str = ""
    state: str = GRADED
    stubs: dict[str, str] = field(default_factory=dict)
    findings: list[list] = field(default_factory=list)
    bodies: dict[str, list] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    handed_in: float | None = None

    @property
    def points(self):
        return sum(self.groups.values())

    @property
    def text(self):
        return self.texts[-1]

    def told(self, hints):
        """The diagnosis with so many hints."""
        return self.texts[min(hints, len(self.texts)) - 1]

    @property
    def place(self):
        return self.student, self.exercise


class Journal:
    """The journal in a file. `known`: {(student, exercise, key): Result}; `last`: {(student, exercise): Result}.

    suspects: (student, exercise, key) of what began and never ended. students, exercises, variant: of the last run.
    """

    def __init__(self, path):
        self.path, self.lock = Path(path), threading.Lock()
        self.known, self.last, self.suspects = {}, {}, {}
        self.students, self.exercises, self.variant = {}, [], None
        if self.path.exists():
            for line in self.path.read_bytes().split(b"\n"):
                self.take(line)

    def take(self, line):
        """Remember what a line tells; the last line of a run that was killed may be half a line."""
        try:
            told = json.loads(line)
            if "class" in told:
                self.students, self.exercises, self.variant = told["class"], told["exercises"], told["variant"]
            elif "began" in told:
                self.suspects[tuple(told["began"])] = True
            elif "left" in told:
                self.suspects.pop(tuple(told["left"]), None)
            else:
                self.remember(Result(**told))
        except (ValueError, TypeError, KeyError):
            return

    def remember(self, result):
        job = (*result.place, result.key)
        self.suspects.pop(job, None)
        self.known[job] = self.last[result.place] = result

    def suspected(self, *job):
        """Did the grader die while it looked at this?"""
        return job in self.suspects or (job in self.known and self.known[job].state == SKIPPED)

    def write(self, told):
        """Add a line; it is with the system when this returns."""
        with self.lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                if file.tell() and not self.ends_with_a_line():
                    file.write(b"\n")
                file.write(json.dumps(told).encode() + b"\n")

    def ends_with_a_line(self):
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read() == b"\n"

    def add(self, result):
        """Write a result down, unless the last line about this exercise of this student says the same."""
        if self.last.get(result.place) != result:
            self.write(asdict(result))
        self.remember(result)


def is_journal(path):
    """Did minipeft write this file?"""
    with Path(path).open("rb") as file:
        first = file.readline(10_000_000)
    try:
        told = json.loads(first)
    except ValueError:
        return not first
    names = {f.name for f in fields(Result)}
    return isinstance(told, dict) and ("class" in told or {"student", "exercise", "key"} <= set(told) <= names)
