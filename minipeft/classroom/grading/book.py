"""The grade book: what the results are worth under a teacher's settings, a row for each student.

Nothing is graded here, so points can be counted anew with other weights, deadlines or overrides.
"""

import csv
import io
import secrets
from collections import Counter
from dataclasses import dataclass, field

from minipeft.classroom.engine.exercise import get_exercise
from minipeft.classroom.engine.recognise import mistakes_of
from minipeft.classroom.grading import alike
from minipeft.classroom.grading.journal import GRADED, Journal, Result
from minipeft.classroom.grading.names import id_of, pages_of, shown
from minipeft.files import write_atomically


@dataclass
class Mark:
    """What one Result counts. points: with override or lateness, times the weight; of: at most so many.

    late: days begun after the deadline. reason: of an override. cost: percent that lateness took.
    """

    result: Result
    points: float
    of: float
    late: int = 0
    cost: float = 0.0
    reason: str = ""


@dataclass
class Row:
    """One student. marks: {exercise: Mark, or None as long as it is not graded}. flags: for the teacher alone."""

    name: str
    id: str
    shown: str
    page: str
    marks: dict[str, Mark | None]
    flags: list[str] = field(default_factory=list)

    @property
    def points(self):
        return sum(mark.points for mark in self.marks.values() if mark)

    @property
    def late(self):
        """Exercises that were handed in late."""
        return sum(bool(mark and mark.late) for mark in self.marks.values())


class Book:
    """
    students: {name: flags}. names: the exercises that count. key: the file that tells whose pseudonym is whose.

    Raises ValueError if the course tells of students that there are not.
    """

    def __init__(self, students, names, course, key):
        self.students, self.names, self.course = students, names, course
        self.ids = {name: id_of(name) for name in students}
        if strangers := course.strangers([*students, *self.ids.values()]):
            raise ValueError(f"times or overrides tell of students that handed in nothing: {', '.join(strangers)}")
        if course.anonymous:
            self.ids = self.shown = pseudonyms(self.ids, key)
        else:
            self.shown = {name: shown(name) for name in students}
        self.pages = pages_of(list(self.ids.values()))
        self.results = {}

    def add(self, result):
        self.results[result.place] = result

    def complete(self, student):
        return all((student, name) in self.results for name in self.names)

    @property
    def of(self):
        """The points that can be had."""
        return sum(self.full(name) for name in self.names)

    def full(self, exercise):
        return len(get_exercise(exercise).groups) * self.course.weight(exercise)

    def rows(self):
        """Every student; in the order of names, or of pseudonyms, which tell nothing."""
        found = [self.row(student) for student in self.students]
        return sorted(found, key=lambda row: row.id) if self.course.anonymous else found

    def row(self, student):
        found = {name: self.results.get((student, name)) for name in self.names}
        marks = {name: result and self.mark(result) for name, result in found.items()}
        flags = list(self.students[student])
        for name, result in found.items():
            flags += [f"{name}: {flag}" for flag in (result.flags if result else [])]
        if self.course.anonymous:
            flags = [self.veiled(student, flag) for flag in flags if not flag.startswith("the name looks like")]
        identifier = self.ids[student]
        return Row(student, identifier, self.shown[student], self.pages[identifier], marks, flags)

    def veiled(self, student, text):
        """A text in which a file that is named after the student has the pseudonym's name."""
        for suffix in (".py", ".ipynb"):
            text = text.replace(f"{student}{suffix}", f"{self.ids[student]}{suffix}") if self.course.anonymous else text
        return text

    def told(self, result):
        """What the student is told of a result."""
        return self.veiled(result.student, result.told(self.course.told))

    def mark(self, result):
        course, weight = self.course, self.course.weight(result.exercise)
        known_as, full = (result.student, id_of(result.student)), self.full(result.exercise)
        for name in known_as:
            if (name, result.exercise) in course.overrides:
                points, reason = course.overrides[name, result.exercise]
                return Mark(result, points * weight, full, reason=reason)
        when = course.handed_in(known_as, result.exercise, result.handed_in)
        late = course.days_late(result.exercise, when) if result.handed_in else 0
        cost = min(100.0, late * course.late)
        return Mark(result, result.points * weight * (1 - cost / 100), full, late, cost)

    # -- the class as a whole ------------------------------------------------------------------------------------------

    def graded(self, exercise):
        return [r for r in self.results.values() if r.exercise == exercise and r.state == GRADED]

    def mistakes(self, exercise):
        """[(how many, what it looks like, the hint)], the commonest first."""
        x = get_exercise(exercise)
        known = {m.id: m for m in mistakes_of(x, self.course.variant)}
        says = {o.name: o.says for o in x.observations}
        found = Counter((mistake, observation) for r in self.graded(exercise) for _, observation, mistake in r.findings)
        by = Counter()
        for (mistake, observation), count in found.items():
            made = [known[name] for name in (mistake or "").split(" + ") if name in known]  # two may be made at once
            for m in made:
                by[m.what, m.hint] += count
            if not made:
                by[says.get(observation, observation), ""] += count
        return [(count, what, hint) for (what, hint), count in by.most_common()]

    def bodies(self, exercise):
        """{body: (how many wrote it, how many have it right)}"""
        states = [r.stubs for r in self.graded(exercise)]
        return {
            stub: tuple(
                sum(s.get(stub) in kinds for s in states) for kinds in (("right", "wrong", "unclear"), ("right",))
            )
            for stub in get_exercise(exercise).stubs
        }

    def groups(self, exercise):
        """{group of observations: how many have it right}"""
        results = self.graded(exercise)
        return {group: sum(r.groups.get(group, False) for r in results) for group in get_exercise(exercise).groups}

    def alike(self):
        def ours(exercise):
            x, seed = get_exercise(exercise), self.course.variant
            return alike.bodies(x.reference(seed), x, seed)

        return alike.alike([r for r in self.results.values() if r.state == GRADED], ours)


def pseudonyms(students, key):
    """{student: pseudonym}, those of an earlier run kept. The key is a file of its own; whoever has it knows all."""
    known = {}
    if key.exists():
        with key.open(newline="", encoding="utf-8", errors="surrogatepass") as file:
            known = {row["student"]: row["pseudonym"] for row in csv.DictReader(file)}
    taken = set(known.values())
    for student in students:
        if student not in known:
            while (new := f"student-{secrets.randbelow(900_000) + 100_000}") in taken:
                pass
            known[student] = new
            taken.add(new)
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("pseudonym", "student"), *((name, student) for student, name in known.items())])
    write_atomically(key, table.getvalue().encode(errors="surrogatepass"))
    return {student: known[student] for student in students}


def book_of(journal, course, key):
    """The Book of a class that was graded before, from its journal (a path). Raises ValueError if it tells of none."""
    journal = Journal(journal)
    if not journal.students:
        raise ValueError(f"{journal.path} tells of no class; grade one first: python -m minipeft grade FOLDER")
    if course.variant not in (None, journal.variant):
        raise ValueError(f"the class was graded with the variant {journal.variant!r}, not {course.variant!r}")
    book = Book(journal.students, journal.exercises, course.under(journal.variant), key)
    for student in journal.students:
        for name in journal.exercises:
            if result := journal.last.get((student, name)):
                book.add(result)
    return book
