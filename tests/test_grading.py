"""A class is graded: thirty submissions of three exercises, ten of them hostile, end with the right marks for all."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from minipeft.classroom import desk, expect
from minipeft.classroom.engine import reading, source
from minipeft.classroom.engine.exercise import exercises, get_exercise
from minipeft.classroom.grading import alike, names, pages, reports, submissions
from minipeft.classroom.grading import grade as grading
from minipeft.classroom.grading import look as looking
from minipeft.classroom.grading.book import Book, book_of
from minipeft.classroom.grading.course import Course, read_course
from minipeft.classroom.grading.grade import grade
from minipeft.classroom.grading.journal import FAILED, SKIPPED, Journal, Result
from minipeft.classroom.grading.reports import Places
from minipeft.classroom.grading.sandbox import Limits, Stopped
from minipeft.classroom.grading.submissions import collect
from minipeft.cli import app
from tests.solutions import replaced

NAMES = ("lora", "ia3", "prompt_tuning")
LORA = get_exercise("lora")
LINE = "        h = F.linear(self.dropout(x), self.A)  # (..., r)\n"
FULL = {name: len(get_exercise(name).groups) for name in NAMES}


def right(name):
    return get_exercise(name).plain()


def doing(code):
    """LoRA's right file that also does something else in its forward pass."""
    return replaced(LORA.plain(), (LINE, "".join(f"        {line}\n" for line in code.splitlines()) + LINE))


def hostile(folder):
    """{what is tried: LoRA's file}; each costs its author points, or is of no use to him."""
    return {
        "hangs": "while True: pass",
        "ends early": "import os; os._exit(0)",
        "crashes": "import faulthandler; faulthandler._sigsegv()",
        "leaves processes": "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)",
        "takes memory": "z = [bytearray(10**9) for _ in range(40)]",
        "deletes": f"import shutil; shutil.rmtree({str(folder)!r})",
        "patches": "import minipeft.classroom.engine.diagnose as c\nc.same = c.close = lambda *_: True\n1 / 0",
        "forges": "import os\nfor fd in range(3, 60):\n    try: os.write(fd, b'\\0\\0\\0\\2{}')\n    except OSError: 0",
        "prints": "print('all tests passed: 100/100'); raise SystemExit(0)",
        "kills": "import os, signal; os.kill(os.getppid(), 9); os.killpg(0, 9)",
        "floods": "while True: print('x' * 10**6)",
    }


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    place = tmp_path_factory.mktemp("class")
    folder = place / "submissions"
    folder.mkdir()

    def hand_in(student, **files):
        (folder / student).mkdir()
        for name, text in files.items():
            (folder / student / f"{name}.py").write_text(text, encoding="utf-8")

    for i in range(12):
        hand_in(f"right{i:02}", **{name: right(name) for name in NAMES})
    for i, mistake in enumerate(LORA.mistakes[:3]):
        hand_in(f"wrong{i}", **{n: right(n) for n in NAMES[1:]}, lora=LORA.with_edits(mistake.diffs[0]))
    hand_in("half", lora=source.emptied(LORA.plain(), LORA.stubs[2:]))
    hand_in("empty", lora=source.emptied(LORA.plain(), LORA.stubs), ia3="def (")
    (folder / "onefile.py").write_text("# minipeft exercise: lora\n" + right("lora"))
    book = {
        "cells": [{"cell_type": "code", "source": c} for c in ("1 / 0", 'check("lora", LoRALinear)', right("lora"))]
    }
    (folder / "notebook.ipynb").write_text(json.dumps(book))
    for i, code in enumerate(hostile(folder).values()):
        hand_in(f"hostile{i:02}", **{name: right(name) for name in NAMES[1:]}, lora=doing(code))
    before = sorted(p.relative_to(place) for p in place.rglob("*"))
    places = Places(place / "grades.csv", place / "feedback", place / "grades.xml")
    book = grade(folder, places, limits=Limits(seconds=2, memory=600), workers=2)
    assert sorted(p.relative_to(place) for p in folder.rglob("*")) == [p for p in before if p != Path("submissions")]
    assert not list(Path(tempfile.gettempdir()).glob(f"minipeft-{os.getpid()}-*"))
    return place, book.results, book


def test_there_are_thirty(graded):
    _, results, book = graded
    assert len({student for student, _ in results}) == 30
    assert not any("belongs to no exercise" in flag for row in book.rows() for flag in row.flags)


def test_the_right_ones_have_all_points_whoever_sits_beside_them(graded):
    _, results, _ = graded
    for (student, name), result in results.items():
        if student.startswith("right") or (student.startswith(("wrong", "hostile")) and name != "lora"):
            assert result.points == FULL[name], result.text
    for student in ("onefile", "notebook"):
        assert results[student, "lora"].points == FULL["lora"], results[student, "lora"].text
        assert results[student, "ia3"].text == "ia3: not handed in"


def test_the_wrong_ones_lose_the_groups_they_have_wrong_and_are_told_why(graded):
    _, results, _ = graded
    for i, mistake in enumerate(LORA.mistakes[:3]):
        result = results[f"wrong{i}", "lora"]
        assert 0 < result.points < FULL["lora"]
        assert mistake.hint in result.text
        assert mistake.id in [known for *_, known in result.findings]
    half = results["half", "lora"]
    assert 0 < half.points < FULL["lora"]
    assert "right so far, not written to the end" in half.text
    assert not half.groups["merge"], "what is not written earns nothing"
    assert results["empty", "lora"].points == results["empty", "ia3"].points == 0
    assert "not written yet" in results["empty", "lora"].text
    assert "not Python yet" in results["empty", "ia3"].text


@pytest.mark.parametrize("i", range(11), ids=hostile("folder"))
def test_a_hostile_one_costs_its_author_points_and_is_told_why(graded, i):
    _, results, _ = graded
    result = results[f"hostile{i:02}", "lora"]
    assert result.points < FULL["lora"]
    assert not result.groups["forward"]
    says = [
        "does a loop never end", "ended the process", "signal 11", "start programs",
        "MemoryError|megabytes", "change files|Permission denied", "ZeroDivisionError", "of its own", "SystemExit",
        "stop other processes", "does a loop never end|OSError",
    ][i]  # fmt: skip
    assert any(word in result.text for word in says.split("|")), result.text


def test_the_table_has_a_line_for_each_student_and_plain_numbers(graded):
    place, *_ = graded
    head, *lines = csv.reader((place / "grades.csv").read_text(encoding="utf-8").splitlines())
    course = [name for name in exercises() if name in NAMES]
    assert head == ["id", "student", *course, "points", "of", "percent", "late", "remarks"]
    assert len(lines) == 30
    assert {line[0]: line[-3] for line in lines}["right00"] == "100.0"
    for line in lines:
        assert float(line[-5]) == sum(map(float, line[2:-5]))


def test_junit_and_the_pages_tell_the_same(graded):
    place, results, _ = graded
    suites = ElementTree.parse(place / "grades.xml").getroot()
    assert len(suites) == 30
    for suite in suites:
        mine = [r for (student, _), r in results.items() if student == suite.get("name")]
        assert int(suite.get("tests")) - int(suite.get("failures")) == sum(r.points for r in mine)
    assert len(list((place / "feedback").glob("*.html"))) == 30
    page = (place / "feedback" / "hostile08.html").read_text()
    assert "What your code printed" in page
    assert "all tests passed" in page
    assert "<script" not in page


def test_the_page_of_the_class_tells_the_commonest_mistakes_and_who_is_alike(graded):
    place, _, book = graded
    page = (place / "grades.html").read_text(encoding="utf-8")
    for mistake in LORA.mistakes[:3]:
        assert pages.say(mistake.hint) in page
    assert 'href="feedback/right00.html"' in page
    (group,) = (g for g in book.alike() if g.exercise == "ia3")
    assert {f"right{i:02}" for i in range(12)} <= set(group.students)
    assert (group.whole, group.ours, group.right) == (True, True, True)
    there, right = book.bodies("lora")["LoRALinear.forward"]
    assert 12 <= right < there < 30


def test_a_second_run_goes_on_where_the_first_stopped(graded, monkeypatch):
    place, results, _ = graded
    asked, before = [], dict(results)
    monkeypatch.setattr(grading, "grade_one", lambda *job: asked.append(job) or before[job[0], job[1]])
    again = grade(place / "submissions", Places(place / "grades.csv"), limits=Limits(seconds=2, memory=600))
    assert not asked
    assert {job: r.points for job, r in again.results.items()} == {job: r.points for job, r in before.items()}
    with (place / "grades.jsonl").open("a") as book:
        book.write('{"student": "half a li')  # interrupted while writing
    late = place / "submissions" / "right00" / "lora.py"
    late.write_text(late.read_text() + "\n# handed in again\n")
    new = before["right00", "lora"].key
    key = grading.key_of("lora", late, None, Limits(seconds=2, memory=600))
    assert new != key
    before["right00", "lora"].key = key
    grade(place / "submissions", Places(place / "grades.csv"), limits=Limits(seconds=2, memory=600))
    assert [job[:2] for job in asked] == [("right00", "lora")]
    assert ("right00", "lora", key) in Journal(place / "grades.jsonl").known, "the half line has spoiled no other"


# -- without grading: results are made up ------------------------------------------------------------------------------


def result(student, exercise="lora", wrong=(), key="k", **more):
    """A Result in which all groups but these are right."""
    groups = {group: group not in wrong for group in get_exercise(exercise).groups}
    return Result(student, exercise, key, groups, [f"{exercise}: right"] * (not wrong) or ["wrong"], **more)


def book(results, course=None, key=Path("none.key.csv")):
    students = {r.student: [] for r in results}
    found = Book(students, list(dict.fromkeys(r.exercise for r in results)), course or Course(), key)
    for r in results:
        found.add(r)
    return found


def left_out(book):
    """Students whose results are no fault of theirs."""
    return [r.student for r in book.results.values() if r.state in (SKIPPED, FAILED)]


def hand_in(folder, **files):
    """folder/student/lora.py with these texts; returns the folder."""
    for student, text in files.items():
        (folder / student).mkdir(parents=True)
        (folder / student / "lora.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def quick(monkeypatch):
    """A grader that grades nothing: each student has all points. `quick[student]` is called first, if it is there."""
    instead = {}

    def one(student, name, path, seed, limits, key, when, executor):
        if student in instead:
            instead[student]()
        return result(student, name, key=key, handed_in=when)

    monkeypatch.setattr(grading, "grade_one", one)
    return instead


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


# -- a grader that dies ------------------------------------------------------------------------------------------------

DIES = """
import os, sys
from pathlib import Path
from minipeft.classroom.grading import grade as grading
from minipeft.classroom.grading.reports import Places
from tests.test_grading import result

def one(student, name, path, seed, limits, key, when, executor):
    if student == "m-killer":
        os.kill(os.getpid(), 9)
    return result(student, name, key=key)

grading.grade_one = one
grading.grade(Path("s"), Places("grades.csv", "pages"), workers=1, retry="--retry" in sys.argv)
"""


def test_a_grader_that_is_killed_leaves_everything_of_the_others_and_the_next_run_skips_the_culprit(tmp_path, quick):
    folder = hand_in(tmp_path / "s", a="1", b="2", **{"m-killer": "3"}, z="4")
    root = Path(__file__).parents[1]

    def run(*words):
        command = [sys.executable, "-c", DIES, *words]
        return subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True)

    assert run().returncode == -signal.SIGKILL
    assert table(tmp_path / "grades.csv")["b"]["lora"] == str(FULL["lora"])
    assert table(tmp_path / "grades.csv")["z"]["lora"] == "", "not graded yet"
    assert f"{FULL['lora']} of" in (tmp_path / "pages" / "b.html").read_text()
    assert "Not graded yet" in (tmp_path / "pages" / "z.html").read_text()
    assert Journal(tmp_path / "grades.jsonl").known.keys() == {
        (s, "lora", grading.key_of("lora", folder / s / "lora.py", None, Limits())) for s in "ab"
    }
    done = run()
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "grades.csv")
    assert rows["z"]["lora"] == str(FULL["lora"])
    assert "lora: the grader itself was killed" in rows["m-killer"]["remarks"]
    assert run("--retry").returncode == -signal.SIGKILL
    assert len(Journal(tmp_path / "grades.jsonl").suspects) == 1


def test_nobody_is_blamed_when_the_teacher_interrupts(tmp_path, quick):
    folder = hand_in(tmp_path / "s", a="1", b="2", c="3")
    quick["b"] = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        grade(folder, Places(tmp_path / "grades.csv"))
    assert not Journal(tmp_path / "grades.jsonl").suspects
    del quick["b"]
    done = grade(folder, Places(tmp_path / "grades.csv"))
    assert {r.state for r in done.results.values()} == {"graded"}


def test_retry_looks_at_one_suspect_after_the_other(tmp_path, quick):
    folder = hand_in(tmp_path / "s", a="1", b="2", c="3")
    places, running, most = Places(tmp_path / "grades.csv"), [], []
    journal = Journal(places.journal)
    journal.write({"class": {}, "exercises": [], "variant": None})
    for student in "ab":
        key = grading.key_of("lora", folder / student / "lora.py", None, Limits())
        journal.write({"began": [student, "lora", key]})

        def watched(student=student):
            running.append(student)
            time.sleep(0.05)
            most.append(len(running))
            running.remove(student)

        quick[student] = watched
    skipped = grade(folder, places, workers=4)
    assert left_out(skipped) == ["a", "b"]
    assert not most
    retried = grade(folder, places, workers=4, retry=True)
    assert not left_out(retried)
    assert most == [1, 1]


def test_an_error_in_the_grader_costs_the_others_nothing_and_is_tried_again(tmp_path, monkeypatch):
    folder = hand_in(tmp_path / "s", ann=right("lora"), bob=right("lora") + "# bob")
    real = looking.judged

    def fails(found, exercise, text, *more):
        if text.endswith("# bob"):
            raise KeyError("a bug of ours")
        raise Stopped("no answer")

    monkeypatch.setattr(looking, "judged", fails)
    done = grade(folder, Places(tmp_path / "grades.csv"))
    assert left_out(done) == ["bob"]
    assert "KeyError" in table(tmp_path / "grades.csv")["bob"]["remarks"]
    assert done.results["ann", "lora"].text == "lora: no answer"
    monkeypatch.setattr(looking, "judged", real)
    done = grade(folder, Places(tmp_path / "grades.csv"))
    assert done.results["bob", "lora"].points == FULL["lora"]
    assert done.results["ann", "lora"].points == 0, "known already"


def test_what_the_sandbox_flags_is_told_to_the_teacher_alone(tmp_path, monkeypatch):
    flagged = result("ann", flags=["it tried to send a forged report"])
    monkeypatch.setattr(grading, "grade_one", lambda *job: flagged)
    flagged.key = "k"
    monkeypatch.setattr(grading, "key_of", lambda *_: "k")
    places = Places(tmp_path / "grades.csv", tmp_path / "pages")
    grade(hand_in(tmp_path / "s", ann="1"), places)
    assert "forged" in table(places.out)["ann"]["remarks"]
    assert "forged" in places.overview.read_text()
    assert "forged" not in (places.feedback / "ann.html").read_text()


def test_the_flags_of_a_child_process_are_kept(tmp_path, monkeypatch):
    class Odd:
        output, flags = "", ["it left a process running"]

        def __init__(self, *_):
            pass

        __enter__ = __exit__ = lambda *_: None

        def observe(self, *_, **__):
            raise Stopped("no answer")

    monkeypatch.setattr(looking, "Child", Odd)
    path = tmp_path / "lora.py"
    path.write_text(right("lora"))
    found = grading.grade_one("ann", "lora", path, None, Limits(), "k", 0.0)
    assert (found.flags, found.text) == (["it left a process running"], "lora: no answer")


# -- what is handed in -------------------------------------------------------------------------------------------------


def test_links_are_refused_and_told_also_to_another_students_folder(tmp_path):
    folder = hand_in(tmp_path / "s", ann=right("lora"))
    for student in ("bob", "cyd", "eve"):
        (folder / student).mkdir()
    os.symlink("../ann/lora.py", folder / "bob" / "lora.py")
    os.symlink("../ann", folder / "cyd" / "work")
    os.symlink("ann", folder / "dan")
    (tmp_path / "ia3.py").write_text(right("ia3"))
    os.link(tmp_path / "ia3.py", folder / "eve" / "ia3.py")
    (folder / "eve" / "helpers.py").write_text("x = 1")
    found = collect(folder)
    assert {student: list(mine.files) for student, mine in found.items()} == {
        "ann": ["lora"], "bob": [], "cyd": [], "dan": [], "eve": [],
    }  # fmt: skip
    assert "it is a link" in found["bob"].refused["lora"]
    assert "work is not read: it is a link; hand in the file itself" in found["cyd"].flags
    assert "dan is not read: it is a link; hand in the file itself" in found["dan"].flags
    assert "hard link" in found["eve"].refused["ia3"]
    assert "belongs to no exercise: helpers.py" in found["eve"].flags


def test_two_files_for_one_exercise_are_refused_with_both_names(tmp_path):
    folder = hand_in(tmp_path / "s", ann=right("lora"))
    (folder / "ann" / "old.py").write_text("# minipeft exercise: lora\n" + right("lora"))
    (folder / "ann" / "ia3.py").write_text(right("ia3"))
    mine = collect(folder)["ann"]
    assert list(mine.files) == ["ia3"]
    assert mine.refused == {"lora": "there are 2 files for it, and only one may be handed in: lora.py, old.py"}


def test_sizes_are_limited_in_sum(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "FILES", 5)
    monkeypatch.setattr(submissions, "BYTES", 3000)
    folder = hand_in(tmp_path / "s", many="x", large="x", fine="x")
    for i in range(5):
        (folder / "many" / f"{i}.txt").touch()
    for i in range(4):
        (folder / "large" / f"{i}.py").write_text("#" * 1000)
    found = collect(folder)
    assert "more than 5 files" in found["many"].problem
    assert "more than 3,000 bytes" in found["large"].problem
    assert list(found["fine"].files) == ["lora"]
    assert not found["many"].files


def test_files_that_cannot_be_read_cost_their_author_alone(tmp_path, quick):
    folder = hand_in(tmp_path / "s", ann=right("lora"), deep="")
    (folder / "deep" / "lora.ipynb").write_text("[" * 100_000)
    (folder / "deep" / "lora.py").unlink()
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / "lora.py")
    found = collect(folder)
    assert list(found["deep"].files) == ["lora"]
    assert "no plain file" in found["pipe"].refused["lora"]
    with pytest.raises(reading.Unreadable, match=r"is nested too deeply|is not a notebook"):
        submissions.readable(folder / "deep" / "lora.ipynb")
    (folder / "ann" / "lora.py").write_text("x = 1\n" * 100_000)
    with pytest.raises(reading.Unreadable, match="too large: 600,000 characters"):
        submissions.readable(folder / "ann" / "lora.py")


@pytest.mark.parametrize(("make", "says"), [(False, "is not a folder"), (True, "there is no submission")])
def test_nothing_to_grade_is_told(make, says, tmp_path):
    if make:
        (tmp_path / "s").mkdir()
    with pytest.raises(ValueError, match=says):
        grade(tmp_path / "s", Places(tmp_path / "grades.csv"))


# -- names -------------------------------------------------------------------------------------------------------------

ODD = [
    "ann", "Ann", "аnn", "ANN ", "ann.", "=1+1", "-x", "x" * 255, "a\nb", "\x1b[31mred", "\u202egnp", "Ju\u0308rgen",
    "J\u00fcrgen", "CON", "nul.txt", "...x", "b&<i>", "李雷", "a'b\"c", "[bold]",
    b"caf\xe9".decode(errors="surrogateescape"),
]  # fmt: skip


def test_every_name_has_a_row_a_page_of_its_own_and_well_formed_xml(tmp_path, quick):
    folder = tmp_path / "s"
    there = [name for name in ODD if not name.startswith(".")]
    for name in there:
        try:
            (folder / name).mkdir(parents=True)
        except OSError:  # a file system that does not take it
            continue
        (folder / name / "lora.py").write_text("1")
    there = os.listdir(folder)
    assert len(there) > 15
    places = Places(tmp_path / "grades.csv", tmp_path / "pages", tmp_path / "grades.xml")
    grade(folder, places)
    reports.write_gradescope(book_of(places.journal, Course(), places.key), tmp_path / "gradescope")
    assert len(table(places.out)) == len(there)
    assert len({path.name.lower() for path in places.feedback.glob("*.html")}) == len(there)
    assert len(ElementTree.parse(places.junit).getroot()) == len(there)
    for path in places.feedback.iterdir():
        assert path.name.isascii()
        assert "\x1b" not in path.read_text(encoding="utf-8")
    for name in table(places.out):
        assert name.isascii()
        assert name[0] not in "=+-@'"


def test_an_id_depends_on_the_name_alone_and_is_the_name_where_that_is_plain():
    for plain in ("ann", "12345", "ann.lee@uni.example", "Doe_Jane", "s-0123"):
        assert names.id_of(plain) == plain
    ids = [names.id_of(name) for name in ODD]
    assert len(set(ids)) == len(ODD)
    assert all(len(i.encode()) < 200 for i in ids)
    assert names.id_of(names.id_of("a b")) != names.id_of("a b"), "nobody can take the id of somebody else as a name"
    assert len({page.lower() for page in names.pages_of(["ann", "Ann", "bob"]).values()}) == 3
    assert names.pages_of(["ann", "bob"]) == {"ann": "ann", "bob": "bob"}


def test_names_that_look_alike_are_told():
    nfc, nfd = (unicodedata.normalize(form, "Jürgen") for form in ("NFC", "NFD"))
    found = names.look_alikes(["ann", "Ann", "аnn", "ann.", "ann\u200b", nfc, nfd, "bob", "b0b", "eve"])
    assert len(found["ann"]) == 4
    assert found[nfc] == [nfd]
    assert found["b0b"] == ["bob"]
    assert "eve" not in found


# -- settings that would spoil a class ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "workers", "says"),
    [
        ({"seconds": float("inf")}, 1, "--seconds is a number from 1 to 600, got inf"),
        ({"seconds": float("nan")}, 1, "got nan"),
        ({"seconds": 1e6}, 1, "--seconds"),
        ({"seconds": 0}, 1, "--seconds"),
        ({"memory": 10**9}, 1, "--memory is a number from 100 to 100,000"),
        ({"memory": 1}, 1, "--memory"),
        ({}, 0, "--workers is a number from 1 to 256, got 0"),
        ({}, 10**6, "--workers"),
    ],
)
def test_limits_that_would_spoil_a_class_are_refused_before_it_starts(tmp_path, limits, workers, says):
    folder = hand_in(tmp_path / "s", ann="1")
    with pytest.raises(ValueError, match=says):
        grade(folder, Places(tmp_path / "grades.csv"), limits=Limits(**limits), workers=workers)
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize(
    "seed", ["", " ", "a\tb", "a\nb", "a)", "(a", " a", "a ", "a  b", "x" * 41, "\x00", "a\u2028b"]
)
def test_a_seed_that_a_started_file_cannot_hold_is_refused_everywhere(tmp_path, seed):
    for x in exercises().values():
        with pytest.raises(ValueError, match="a variant seed"):
            x.reference(seed)
    with pytest.raises(ValueError, match="a variant seed"):
        desk.start("lora", tmp_path / "work", seed)
    with pytest.raises(ValueError, match="a variant seed"):
        Course(variant=seed)
    path = tmp_path / "lora.py"
    path.write_text(right("lora"))
    with pytest.raises(ValueError, match="a variant seed"):
        desk.check_file(path, "lora", seed)
    with pytest.raises(ValueError, match="a variant seed"):
        expect("ia3", type("IA3", (), {}), variant=seed)


@pytest.mark.parametrize("seed", ["x" * 40, "a b c d e f g h i j k l m n o p q r s t", "spring-7", "7", "été"])
def test_a_seed_that_is_taken_is_told_by_every_started_file(seed):
    for x in exercises().values():
        if x.chosen(seed):
            assert reading.variant_of(desk.sheet(x, Path(f"work/{x.name}.py"), seed)) == seed


def test_a_file_that_was_started_under_other_rules_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "judged", lambda *_: (_ for _ in ()).throw(Stopped("not looked at")))
    path = tmp_path / "lora.py"
    path.write_text(desk.sheet(LORA, path, "spring-7"))
    for seed, says in (
        ("spring-7", None),
        ("autumn", "is graded under 'autumn'"),
        (None, "is graded without variants"),
    ):
        flags = grading.grade_one("ann", "lora", path, seed, Limits(), "k", 0.0).flags
        assert (says in flags[0]) if says else not flags


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({"out": "folder"}, "is a folder"),
        ({"out": "s/grades.csv"}, "lies among the submissions"),
        ({"out": "grades.jsonl"}, "is a CSV file: name it grades.csv"),
        ({"out": "grades.csv", "feedback": "s/pages"}, "lies among the submissions"),
        ({"out": "grades.csv", "feedback": "s"}, "lies among the submissions"),
        ({"out": "grades.csv", "junit": "s/ann/j.xml"}, "lies among the submissions"),
        ({"out": "grades.csv", "junit": "grades.csv"}, "written already"),
        ({"out": "grades.csv", "feedback": "file"}, "is not a folder"),
        ({"out": "thesis.csv"}, "no grades that minipeft wrote"),
        ({"out": "grades.csv", "junit": "thesis.csv"}, "no JUnit file that minipeft wrote"),
        ({"out": "diary.csv"}, "no journal that minipeft wrote"),
        ({"out": "grades.csv", "feedback": "pages"}, "no page that minipeft wrote"),
    ],
)
def test_places_that_would_be_harmed_are_refused_before_grading(tmp_path, monkeypatch, quick, places, says):
    monkeypatch.chdir(tmp_path)
    hand_in(Path("s"), ann="1")
    quick["ann"] = lambda: pytest.fail("the work began before the place was tried")
    Path("folder").mkdir()
    Path("pages").mkdir()
    for file in ("file", "thesis.csv", "diary.jsonl", "pages/ann.html"):
        Path(file).write_text("by somebody else")
    with pytest.raises(ValueError, match=says):
        grade("s", Places(**places))
    assert Path("diary.jsonl").read_text() == Path("thesis.csv").read_text() == "by somebody else"
    assert Path("pages/ann.html").read_text() == "by somebody else"


def test_own_files_are_written_again_and_those_of_others_with_force(tmp_path, quick):
    folder = hand_in(tmp_path / "s", ann="1")
    places = Places(tmp_path / "grades.csv", tmp_path / "pages", tmp_path / "grades.xml")
    places.journal.write_text("a diary")
    places.out.write_text("a thesis")
    grade(folder, places, force=True)
    grade(folder, places)
    assert table(places.out)["ann"]["lora"] == str(FULL["lora"])
    assert "a diary" not in places.journal.read_text()
    (tmp_path / "pages" / "left.html").write_text((tmp_path / "pages" / "ann.html").read_text())
    assert [path.name for path in places.leftovers(grade(folder, places))] == ["left.html"]


# -- the grade book ----------------------------------------------------------------------------------------------------

NOON = datetime(2026, 11, 30, 12).timestamp()


def course(tmp_path, text, **files):
    for name, content in files.items():
        (tmp_path / f"{name}.csv").write_text(content, encoding="utf-8")
    (tmp_path / "course.toml").write_text(text, encoding="utf-8")
    return read_course(tmp_path / "course.toml")


def test_weights_lateness_and_overrides_count(tmp_path):
    settings = course(
        tmp_path,
        'due = 2026-11-30T12:00:00\nlate = 10\ntimes = "times.csv"\noverrides = "overrides.csv"\n[weights]\nlora = 2\n',
        times="student,time\ncyd,2026-12-02T12:00\ndan,2026-11-29T12:00\n",
        overrides="student,exercise,points,reason\neve,lora,5,ill\n",
    )
    some = [result(s, handed_in=NOON + 3600 * (s != "ann")) for s in ("ann", "bob", "cyd", "dan", "eve")]
    some.append(result("bob", "ia3", wrong=["output"], handed_in=NOON))
    found = {row.name: row for row in book(some, settings).rows()}
    full = FULL["lora"]
    assert [found[s].marks["lora"].late for s in ("ann", "bob", "cyd", "dan")] == [0, 1, 2, 0]
    points = [found[s].marks["lora"].points for s in ("ann", "bob", "cyd", "dan", "eve")]
    assert points == pytest.approx([2 * full, 2 * full * 0.9, 2 * full * 0.8, 2 * full, 10])
    assert found["bob"].points == pytest.approx(1.8 * full + FULL["ia3"] - 1)
    page = pages.page(book(some, settings), found["cyd"])
    assert "Handed in late" in page
    assert "20 % of the points" in page
    assert "Your teacher gave 10 points: ill" in pages.page(book(some, settings), found["eve"])
    reports.write_table(book(some, settings), tmp_path / "grades.csv")
    rows = table(tmp_path / "grades.csv")
    assert rows["bob"]["late"] == "1"
    assert float(rows["cyd"]["lora"]) == pytest.approx(1.6 * full)
    assert rows["ann"]["of"] == str(2 * full + FULL["ia3"])


def test_an_exercise_may_have_a_deadline_of_its_own_and_late_work_may_be_marked_alone(tmp_path):
    settings = course(tmp_path, "[due]\nlora = 2026-11-30T11:00:00\n")
    row = book([result("ann", handed_in=NOON), result("ann", "ia3", handed_in=NOON)], settings).row("ann")
    assert [row.marks[name].late for name in ("lora", "ia3")] == [1, 0]
    assert row.points == FULL["lora"] + FULL["ia3"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dues = 1", "sets dues; there are: variant, hints, due"),
        ("due = 2026-11-30", "a day and a time"),
        ("due = 'soon'", "a day and a time"),
        ("late = 101", "from 0 to 100"),
        ("late = nan", "from 0 to 100"),
        ("hints = 5", "from 1 to 4"),
        ("hints = ''", "from 1 to 4"),
        ("weights = 2", "weights is a table"),
        ("[weights]\nlora = -1", "the weight of lora"),
        ("[weights]\nlaura = 1", "no exercise 'laura'"),
        ("[due]\nlaura = 2026-11-30T12:00:00", "no exercise 'laura'"),
        ("variant = ')'", "a variant seed"),
        ("anonymous = 'yes'", "true or false"),
        ("due = ", "is not TOML"),
        ('times = "times.csv"', "line 2: 'noon' is no time"),
        ('overrides = "overrides.csv"', "line 3: lora has 0 to 8 points, got 9"),
        ('overrides = "times.csv"', "has no column exercise, points, reason"),
    ],
)
def test_a_mistake_in_the_course_file_is_told(tmp_path, text, says):
    overrides = "student,exercise,points,reason\nann,lora,8,ill\nann,ia3,1,x\nann,lora,9,bribe\n"
    overrides = overrides.replace("ann,ia3,1,x\n", "")
    with pytest.raises(ValueError, match=says):
        course(tmp_path, text, times="student,time\nann,noon\n", overrides=overrides)


def test_students_that_nobody_knows_are_told_before_grading(tmp_path, quick):
    settings = Course(overrides={("anne", "lora"): (1.0, "a slip of the pen")})
    folder, places = hand_in(tmp_path / "s", ann="1"), Places(tmp_path / "grades.csv")
    grade(folder, places)
    before = places.journal.read_bytes()
    with pytest.raises(ValueError, match="handed in nothing: anne"):
        grade(folder, places, course=settings, again=True)
    assert places.journal.read_bytes() == before


def test_overrides_survive_a_rerun_and_need_no_grading(tmp_path, quick):
    places = Places(tmp_path / "grades.csv")
    settings = course(tmp_path, 'overrides = "o.csv"', o="student,exercise,points,reason\nann,lora,1,copied\n")
    folder = hand_in(tmp_path / "s", ann="1", bob="2")
    for _ in range(2):
        grade(folder, places, course=settings)
        assert table(places.out)["ann"]["lora"] == "1"
    reports.write(book_of(places.journal, Course(), places.key), places)
    assert table(places.out)["ann"]["lora"] == str(FULL["lora"])


def test_hints_hold_for_pages_junit_and_gradescope(tmp_path, monkeypatch):
    found = result("ann", wrong=["forward"])
    found.texts = ["the symptom", "the question", "the mistake", "all of it"]
    for hints, environment, says in ((None, None, "all of it"), (None, "1", "the symptom"), (2, "1", "the question")):
        monkeypatch.setenv("MINIPEFT_HINTS", environment or "4")
        some = book([found], Course(hints=hints))
        reports.write_junit(some, tmp_path / "j.xml")
        reports.write_gradescope(some, tmp_path)
        for text in (
            pages.page(some, some.row("ann")), (tmp_path / "j.xml").read_text(), (tmp_path / "ann.json").read_text(),
        ):  # fmt: skip
            assert [word for word in found.texts if word in text] == [says]


def test_gradescope_reads_a_score_and_a_test_for_each_group(tmp_path):
    settings = Course(weights={"lora": 2}, late=50, due=datetime(2026, 11, 30))
    reports.write_gradescope(book([result("ann", wrong=["forward"], handed_in=NOON)], settings), tmp_path)
    told = json.loads((tmp_path / "ann.json").read_text())
    assert told["score"] == FULL["lora"] - 1
    assert {t["name"]: t["score"] for t in told["tests"]}["lora: forward"] == 0
    assert sum(t["max_score"] for t in told["tests"]) == 2 * FULL["lora"]
    known = {"score", "execution_time", "output", "visibility", "stdout_visibility", "extra_data", "tests"}
    assert set(told) <= known
    assert all(set(t) <= {"score", "max_score", "name", "output", "visibility"} for t in told["tests"])
    assert "late" in told["output"]


def test_anonymous_pages_and_tables_hold_no_name_and_pseudonyms_are_stable(tmp_path, quick):
    folder = hand_in(tmp_path / "s", annabel="1", bobby="2")
    (folder / "annabel" / "notes.py").touch()
    (folder / "charlie.py").write_text("# minipeft exercise: lora\n")
    (folder / "charlie.ipynb").write_text("{}")
    places, settings = Places(tmp_path / "grades.csv", tmp_path / "pages", tmp_path / "g.xml"), Course(anonymous=True)
    first = grade(folder, places, course=settings).shown
    hand_in(folder, aaron="3")
    again = grade(folder, places, course=settings).shown
    assert {name: again[name] for name in first} == first
    written = [places.out, places.overview, places.junit, *places.feedback.iterdir()]
    assert len(written) == 3 + 4
    for path in written:
        assert not any(name in path.read_text() + path.name for name in again), path
    key = {line.split(",")[0]: line.split(",")[1] for line in places.key.read_text().splitlines()[1:]}
    assert key == {pseudonym: name for name, pseudonym in again.items()}


def test_the_commonest_mistakes_come_first_with_their_hints():
    first, second = LORA.mistakes[:2]
    some = [result(s, wrong=["forward"], findings=[[None, "output shape", first.id]]) for s in "abc"]
    some += [result("d", wrong=["forward"], findings=[[None, "output shape", second.id]])]
    some += [result("e", wrong=["forward"], findings=[[None, LORA.observations[0].name, None]]), result("f")]
    found = book(some).mistakes("lora")
    assert found[0] == (3, first.what, first.hint)
    assert (1, second.what, second.hint) in found
    assert (1, LORA.observations[0].says, "") in found
    assert book(some).groups("lora")["forward"] == 1
    page = pages.overview(book(some))
    assert page.index(pages.say(first.what)) < page.index(pages.say(second.what))


# -- who is alike ------------------------------------------------------------------------------------------------------


def renamed(text):
    """The same solution in disguise: other local names and comments."""
    return re.sub(r"\bx\b", "inputs", re.sub(r"\bh\b", "hidden", re.sub(r"  # .*", "  # mine", text)))


def test_disguised_copies_are_told_and_independent_solutions_are_not():
    text = right("lora")
    mine, theirs = (alike.bodies(t, LORA) for t in (text, "# my own work\n" + renamed(text)))
    assert mine == theirs != {}
    assert alike.nearly(mine, theirs)
    other = source.emptied(text, LORA.stubs)
    assert alike.bodies(other, LORA) == {}, "the given file is nobody's work"
    assert not alike.nearly(mine, {})
    one = {"forward": ["1", 10]}
    assert not alike.nearly(one, one), "too short to tell"


def test_groups_name_who_is_alike_the_wrong_ones_first():
    same, other = {"a": ["1", 100], "b": ["2", 50]}, {"a": ["3", 100]}
    some = [
        result("ann", bodies=same, wrong=["forward"]), result("bob", bodies=same, wrong=["forward"], key="l"),
        result("cyd", bodies=other), result("dan", "ia3", bodies=other), result("eve", "ia3", bodies=other),
        result("fay", bodies=same | {"b": ["9", 30]}, wrong=["merge"], key="m"),
    ]  # fmt: skip
    found = alike.alike(some, lambda exercise: other if exercise == "ia3" else {})
    assert [(g.exercise, g.students, g.whole, g.ours, g.right) for g in found] == [
        ("lora", ["ann", "bob"], False, False, False),
        ("ia3", ["dan", "eve"], True, True, True),
    ]


# -- pages -------------------------------------------------------------------------------------------------------------


def test_a_page_shows_what_a_student_wrote_as_text():
    found = result("<b>eve", wrong=["forward"], output="<img src=x>")
    found.texts = ["<script>alert(1)</script>"]
    some = book([found])
    for text in (pages.page(some, some.row("<b>eve")), pages.overview(some)):
        for tag in ("<script>", "<img", "<b>eve"):
            assert tag not in text


def test_pages_are_read_by_machines_and_by_those_who_do_not_see():
    some = book([result("ann", wrong=["forward"]), result("bob")])
    for text in (pages.page(some, some.row("ann")), pages.overview(some)):
        assert "<title>" in text
        assert text.count("<h1>") == 1
        assert 'lang="en"' in text
        assert 'name="viewport"' in text
        closed = re.sub(r"(<meta [^>]*)>", r"\1/>", text.replace("<!doctype html>", ""))
        ElementTree.fromstring(closed)
    assert "forward: wrong" in pages.page(some, some.row("ann")), "not by colour alone"
    assert pages.overview(some).count('scope="col"') > 5


@pytest.mark.parametrize("ink", ["#222", "#07624a", "#a1201a", "#0b4f9e"])
def test_colours_have_contrast(ink):
    def light(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    assert ink in pages.FRAME
    assert (1 + 0.05) / (light(ink) + 0.05) > 7, "AAA of the web's accessibility guidelines"


# -- the commands ------------------------------------------------------------------------------------------------------


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_the_commands_grade_and_count_anew(tmp_path):
    folder = hand_in(tmp_path / "s", ann=right("lora"))
    (folder / "ann" / "other.py").write_text(right("lora"))
    out, feedback = tmp_path / "g.csv", tmp_path / "f"
    done = run("grade", folder, "--out", out, "--feedback", feedback, "--workers", 1)
    assert done.exit_code == 0
    assert "ann: belongs to no exercise: other.py" in done.output
    assert (feedback / "ann.html").exists()
    (tmp_path / "course.toml").write_text("[weights]\nlora = 0.5\n")
    done = run("grades", out, "--course", tmp_path / "course.toml", "--gradescope", tmp_path / "gs")
    assert done.exit_code == 0
    assert table(out)["ann"]["lora"] == f"{FULL['lora'] / 2:g}"
    assert json.loads((tmp_path / "gs" / "ann.json").read_text())["score"] == FULL["lora"] / 2


def test_the_variant_stands_in_one_place(tmp_path):
    folder = hand_in(tmp_path / "s", ann="1")
    (tmp_path / "course.toml").write_text("variant = 'autumn'")
    words = ("grade", folder, "--out", tmp_path / "g.csv", "--course", tmp_path / "course.toml", "--variant", "spring")
    with pytest.raises(ValueError, match="has the variant 'autumn', and --variant is 'spring'"):
        run(*words)


def test_grades_without_a_class_are_told(tmp_path):
    with pytest.raises(ValueError, match="tells of no class; grade one first"):
        run("grades", tmp_path / "g.csv")


# -- what the documentation promises -----------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
TEACHING = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")


def plan(hours):
    """The rows of a plan: [(start, minutes, what, bodies left out)]"""
    text = TEACHING.split(f"### {hours} hours\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| (\d+):(\d\d) \| (\d+) \| (.+?) \| (.*?) ?\|$", text, re.MULTILINE)
    return [(60 * int(h) + int(m), int(n), what, re.findall(r"`(.+?)`", out)) for h, m, n, what, out in rows]


def minutes_of_lesson(number):
    """What the first lines of a lesson promise."""
    (path,) = (ROOT / "lessons").glob(f"{number}_*.py")
    return int(re.search(r"(\d+) minutes", path.read_text(encoding="utf-8"))[1])


@pytest.mark.parametrize(("hours", "first"), [(2, 0), (6, 0), (12, 6)])
def test_a_plan_adds_up(hours, first):
    rows, now = plan(hours), 60 * first
    assert len(rows) >= 4
    for start, minutes, *_ in rows:
        assert start == now
        now += minutes
    assert now == 60 * hours


@pytest.mark.parametrize("hours", [2, 6, 12])
def test_a_plan_leaves_time_for_what_it_asks(hours):
    for _, minutes, what, left_out in plan(hours):
        if number := re.match(r"lesson (\d\d)", what):
            assert minutes >= minutes_of_lesson(number[1]), what
        elif (name := re.match(r"`(\w+)`", what)) and name[1] in exercises():
            x = get_exercise(name[1])
            assert set(left_out) < set(x.stubs), what
            assert minutes >= x.minutes * (1 - len(left_out) / len(x.stubs)), what
        else:
            assert not left_out


def test_the_course_file_of_the_documentation_is_read(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", TEACHING, re.DOTALL)
    files = {"times": "student,time\nann,2026-12-01T10:00\n", "overrides": "student,exercise,points,reason\n"}
    settings = course(tmp_path, text, **files)
    assert settings.weight("lora") == 2
    assert settings.days_late("lora", settings.handed_in(["ann"], "lora", None)) == 1
    assert all(name in TEACHING for name in course_settings())


def course_settings():
    return list(Course.__dataclass_fields__)


def test_the_workflow_for_github_classroom_works_in_a_tiny_imitation(tmp_path, monkeypatch):
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "graders" / "github" / "classroom.yml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["jobs"].values()
    graders = [step for step in job["steps"] if "command-grader" in step.get("uses", "")]
    installs = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    assert all(line.startswith("pip install ") for line in installs)
    monkeypatch.chdir(tmp_path)
    Path("work").mkdir()
    for step in graders:
        told, name = step["with"], step["name"]
        python, dash_m, package, *words = told["command"].split()
        assert (python, dash_m, package) == ("python", "-m", "minipeft")
        assert told["max-score"] == len(get_exercise(name).groups)
        x, path = get_exercise(name), Path("work", f"{name}.py")
        for solution, code in ((source.emptied(x.plain(), x.stubs), 1), (x.plain(), 0)):
            path.write_text(solution, encoding="utf-8")
            assert run(*words).exit_code == code
    report = job["steps"][-1]
    ids = report["with"]["runners"].split(",")
    assert ids == [step["id"] for step in graders]
    assert all(i.isalnum() for i in ids), "the reporter takes letters and digits"
    assert report["env"] == {f"{i.upper()}_RESULTS": f"${{{{steps.{i}.outputs.result}}}}" for i in ids}
