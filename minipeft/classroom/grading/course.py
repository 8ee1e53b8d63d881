"""What a teacher sets for a whole course, in one file, course.toml. Everything in it may be left out:

variant = "spring-7"             # a seed of your own: rules unlike the paper's
hints = 3                        # how much the pages tell, 1 to 4; else what MINIPEFT_HINTS says
due = 2026-11-30T23:59:00        # for all; or a table [due] with a time for each exercise
late = 10                        # percent of the points that each day begun after it costs
times = "times.csv"              # student,time: when they handed in; else the time of the file counts
overrides = "overrides.csv"      # student,exercise,points,reason: your word instead of the checker's
anonymous = true                 # names are replaced; the key is written beside the table

[weights]                        # what a point counts; else 1
lora = 2
"""

import csv
import dataclasses
import math
import os
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from minipeft.classroom.engine.check import hints_wanted
from minipeft.classroom.engine.exercise import get_exercise, seed_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DAY = 24 * 3600


@dataclass(frozen=True)
class Course:
    """The settings of a course; see the module. times: {(student, exercise or ""): seconds}. overrides: {(student,
    exercise): (points, reason)}. Raises ValueError for a setting that would spoil the class."""

    variant: str | None = None
    hints: int | None = None
    due: datetime | dict[str, datetime] | None = None
    late: float = 0.0
    times: dict = field(default_factory=dict)
    overrides: dict = field(default_factory=dict)
    anonymous: bool = False
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if self.variant is not None:
            seed_of(self.variant)
        if str(hints := os.environ.get("MINIPEFT_HINTS", 4) if self.hints is None else self.hints) not in (
            "1",
            "2",
            "3",
            "4",
        ):
            raise ValueError(f"hints, or MINIPEFT_HINTS, is a number from 1 to 4, got {hints!r}")
        for due in self.due.values() if isinstance(self.due, dict) else [self.due] * (self.due is not None):
            if not isinstance(due, datetime):
                raise ValueError(f"due is a day and a time, such as 2026-11-30T23:59:00; got {due}")
        if not number(self.late) or not 0 <= self.late <= 100:
            raise ValueError(f"late is a percentage from 0 to 100, got {self.late!r}")
        if not isinstance(self.weights, dict):
            raise ValueError("weights is a table: [weights], then a line for each exercise, such as lora = 2")
        for name, weight in self.weights.items():
            if not number(weight) or not 0 <= weight <= 1000:
                raise ValueError(f"the weight of {name} is a number from 0 to 1000, got {weight!r}")
        if not isinstance(self.anonymous, bool):
            raise ValueError(f"anonymous is true or false, got {self.anonymous!r}")
        for name in [*self.weights, *(self.due if isinstance(self.due, dict) else ())]:
            get_exercise(name)

    @property
    def told(self):
        """How much is told, 1 to 4."""
        return hints_wanted(self.hints)

    def under(self, variant):
        """The same course with this seed."""
        return dataclasses.replace(self, variant=variant)

    def weight(self, exercise):
        return self.weights.get(exercise, 1)

    def handed_in(self, names, exercise, file_time):
        """When a student, known by any of these names, handed in: seconds since 1970."""
        known = [self.times[key] for name in names for key in ((name, exercise), (name, "")) if key in self.times]
        return known[0] if known else file_time

    def days_late(self, exercise, seconds):
        """Days begun after the deadline; 0 in time or without a deadline."""
        due = self.due.get(exercise) if isinstance(self.due, dict) else self.due
        return max(0, math.ceil((seconds - due.timestamp()) / DAY)) if due and seconds else 0

    def strangers(self, known):
        """Students that times or overrides tell of, and nobody knows."""
        return sorted({student for student, _ in [*self.times, *self.overrides]} - set(known))


def number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_course(path):
    """The Course of a TOML file. ValueError names the setting that is wrong; files in it are found beside it."""
    path = Path(path)
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    known = [f.name for f in dataclasses.fields(Course)]
    if strange := [name for name in told if name not in known]:
        raise ValueError(f"{path} sets {', '.join(strange)}; there are: {', '.join(known)}")
    try:
        for name, read in (("times", read_times), ("overrides", read_overrides)):
            if name in told:
                told[name] = read(path.parent / told[name])
        return Course(**told)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None


def rows(path, columns, optional=()):
    """(number of the line, {column: text}) of a CSV file that has these columns."""
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if missing := [name for name in columns if name not in (table.fieldnames or ())]:
            raise ValueError(f"{path} has no column {', '.join(missing)}; its first line is {','.join(columns)}")
        for row in table:
            yield table.line_num, {name: (row.get(name) or "").strip() for name in (*columns, *optional)}


def read_times(path):
    """{(student, exercise or ""): seconds} of a CSV file with the columns student, time and perhaps exercise."""
    found = {}
    for line, row in rows(path, ("student", "time"), ("exercise",)):
        try:
            when = datetime.fromisoformat(row["time"].replace("Z", "+00:00"))
        except ValueError:
            raise ValueError(f"{path}, line {line}: {row['time']!r} is no time such as 2026-11-30T23:59") from None
        if row["exercise"]:
            get_exercise(row["exercise"])
        found[row["student"], row["exercise"]] = when.timestamp()
    return found


def read_overrides(path):
    """{(student, exercise): (points, reason)} of a CSV file with these columns."""
    found = {}
    for line, row in rows(path, ("student", "exercise", "points", "reason")):
        try:
            points, full = float(row["points"]), len(get_exercise(row["exercise"]).groups)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        if not 0 <= points <= full:
            raise ValueError(f"{path}, line {line}: {row['exercise']} has 0 to {full} points, got {row['points']}")
        if not row["reason"]:
            raise ValueError(f"{path}, line {line}: say in the column reason why")
        if (row["student"], row["exercise"]) in found:
            raise ValueError(f"{path}, line {line}: {row['student']}, {row['exercise']} stands there twice")
        found[row["student"], row["exercise"]] = points, row["reason"]
    return found
