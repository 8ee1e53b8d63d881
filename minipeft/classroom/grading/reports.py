"""What is written about a class: a table, JUnit, files for Gradescope; the pages are in `pages`. All from the Book."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from minipeft.classroom.grading import pages
from minipeft.classroom.grading.journal import is_journal
from minipeft.files import OURS, place, plain, write_atomically

HEAD, TAIL = ("id", "student"), ("points", "of", "percent", "late", "remarks")


@dataclass
class Places:
    """Where to write. out: the table; beside it stand the journal, the page of the class and the key of pseudonyms.

    feedback: a folder for a page per student. junit: a file for JUnit XML. gradescope: a folder for a file per student.
    """

    out: Path
    feedback: Path | None = None
    junit: Path | None = None
    gradescope: Path | None = None

    def __post_init__(self):
        self.out, self.feedback = Path(self.out), self.feedback and Path(self.feedback)
        self.junit, self.gradescope = self.junit and Path(self.junit), self.gradescope and Path(self.gradescope)

    @property
    def journal(self):
        return self.out.with_suffix(".jsonl")

    @property
    def overview(self):
        return self.out.with_suffix(".html")

    @property
    def key(self):
        return self.out.with_suffix(".key.csv")

    def refuse(self, submissions=None, force=False):
        """Raises ValueError for a place that must not be written to, before anything is graded."""
        plain(self.out)
        if self.out.suffix != ".csv":
            raise ValueError(f"the table is a CSV file: name it {self.out.with_suffix('.csv')} instead of {self.out}")
        files = {"journal": self.journal, "grades": self.out, "page": self.overview}
        files |= {"JUnit file": self.junit} if self.junit else {}
        folders = [folder for folder in (self.feedback, self.gradescope) if folder]
        for path in [*files.values(), self.key, *folders]:
            if submissions and path.resolve().is_relative_to(Path(submissions).resolve()):
                raise ValueError(f"{path} lies among the submissions, where it would be taken for one: choose another")
        if self.junit and self.junit.resolve() in {p.resolve() for p in (self.out, self.journal, self.overview)}:
            raise ValueError(f"{self.junit} is written already: choose another name for JUnit")
        for kind, path in files.items():
            place(path, kind, force)
        for folder in folders:
            if folder.exists() and not folder.is_dir():
                raise ValueError(f"{folder} is not a folder")

    def refuse_pages(self, book, force=False):
        """Raises ValueError if a student's page would be written over a file that minipeft did not write."""
        for row in book.rows() if self.feedback else ():
            path = plain(self.feedback / f"{row.page}.html")
            if path.exists() and not force:
                place(path, "page")

    def leftovers(self, book):
        """Pages of an earlier run that belong to nobody now, such as those with names of a class made anonymous."""
        pages_now = {f"{page}.html" for page in book.pages.values()}
        found = sorted(self.feedback.glob("*.html")) if self.feedback else []
        return [path for path in found if path.name not in pages_now and path.is_file() and pages.is_page(path)]


def write(book, places):
    """Write everything; each file is there whole, the old one or the new one."""
    write_table(book, places.out)
    if places.junit:
        write_junit(book, places.junit)
    if places.feedback:
        for row in book.rows():
            write_page(book, row, places.feedback)
    if places.gradescope:
        write_gradescope(book, places.gradescope)
    text = pages.overview(book, places.feedback and Path(pages.relative(places.feedback, places.overview.parent)))
    write_atomically(places.overview, text.encode())


def write_one(book, places, student):
    """Write what is new when a student is done: the table and the student's page."""
    write_table(book, places.out)
    if places.feedback:
        write_page(book, book.row(student), places.feedback)


def write_page(book, row, folder):
    write_atomically(folder / f"{row.page}.html", pages.page(book, row).encode())


def plain_number(value):
    """A number as every spreadsheet and every learning platform reads it: 7, 6.4, 6.33."""
    return f"{round(value, 2):g}" if value < 100_000 else str(round(value, 2))


def write_table(book, path):
    """CSV, a line for each student: id, name, points of each exercise (empty: not graded yet), their sum, remarks."""
    file = io.StringIO(newline="")
    table = csv.writer(file, lineterminator="\n")
    table.writerow([*HEAD, *book.names, *TAIL])
    for row in book.rows():
        cells = [plain_number(mark.points) if mark else "" for mark in row.marks.values()]
        percent = f"{100 * row.points / book.of:.1f}" if book.of else ""
        end = [plain_number(row.points), plain_number(book.of), percent, row.late, "; ".join(row.flags)]
        name = "'" + row.shown if row.shown[:1] in "=+-@" else row.shown  # or a spreadsheet would calculate it
        table.writerow([row.id, name, *cells, *end])
    write_atomically(path, file.getvalue().encode())


def write_junit(book, path):
    """JUnit XML: a suite for each student, a case for each group of observations."""
    suites = ElementTree.Element("testsuites", name="minipeft")
    for row in book.rows():
        results = [mark.result for mark in row.marks.values() if mark]
        groups = [(r, group, right) for r in results for group, right in r.groups.items()]
        failed = sum(not right for *_, right in groups)
        suite = ElementTree.SubElement(
            suites, "testsuite", name=row.shown, id=row.id, tests=str(len(groups)), failures=str(failed)
        )
        for result, group, right in groups:
            case = ElementTree.SubElement(suite, "testcase", classname=f"{row.id}.{result.exercise}", name=group)
            if not right:
                failure = ElementTree.SubElement(case, "failure", message=f"{result.exercise}: {group}")
                failure.text = book.told(result)
    write_atomically(path, ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True))


def write_gradescope(book, folder):
    """For each student a file as Gradescope's autograder reads it (results.json), named by id.

    The format: gradescope-autograders.readthedocs.io/en/latest/specs. A score for the whole overrides those of the
    tests; so lateness and overrides count.
    """
    for row in book.rows():
        tests = []
        for name, mark in row.marks.items():
            weight = book.course.weight(name)
            for group, right in mark.result.groups.items() if mark else ():
                output = "" if right else book.told(mark.result)
                test = {"name": f"{name}: {group}", "score": weight * right, "max_score": weight, "output": output}
                tests.append(test | {"visibility": "visible"})
        told = {"score": round(row.points, 2), "output": pages.remark(row), "visibility": "visible", "tests": tests}
        told["extra_data"] = {"by": "minipeft", "id": row.id}
        write_atomically(folder / f"{row.id}.json", json.dumps(told, indent=1).encode())


def is_grades(path):
    """Did minipeft write this table?"""
    with path.open("rb") as file:
        head = file.readline(10_000).decode(errors="replace").strip().split(",")
    return tuple(head[:2]) == HEAD and tuple(head[-5:]) == TAIL


def is_junit(path):
    with path.open("rb") as file:
        return b'<testsuites name="minipeft"' in file.read(200)


OURS |= {"grades": is_grades, "journal": is_journal, "page": pages.is_page, "JUnit file": is_junit}
