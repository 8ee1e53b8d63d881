"""A class is graded: thirty submissions of three exercises, ten of them hostile, end with the right marks for all."""

import csv
import json
import os
import shutil
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from minipeft.classroom.engine import source
from minipeft.classroom.engine.exercise import edited, exercises, get_exercise
from minipeft.classroom.grading import grade as grading
from minipeft.classroom.grading.grade import collect, grade
from minipeft.classroom.grading.sandbox import Limits
from minipeft.cli import app

NAMES = ("lora", "ia3", "prompt_tuning")
LORA = get_exercise("lora")
LINE = "        h = F.linear(self.dropout(x), self.A)  # (..., r)\n"
FULL = {name: len(get_exercise(name).groups) for name in NAMES}


def right(name):
    return get_exercise(name).plain()


def doing(code):
    """LoRA's right file that also does something else in its forward pass."""
    return edited(LORA.plain(), [(LINE, "".join(f"        {line}\n" for line in code.splitlines()) + LINE)])


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
        hand_in(f"wrong{i}", **{n: right(n) for n in NAMES[1:]}, lora=edited(right("lora"), mistake.edits))
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
    results, strange = grade(
        folder, place / "grades.csv", place / "feedback", place / "grades.xml", seed=None,
        limits=Limits(seconds=2, memory=600), workers=2,
    )  # fmt: skip
    assert sorted(p.relative_to(place) for p in folder.rglob("*")) == [p for p in before if p != Path("submissions")]
    assert not list(Path(tempfile.gettempdir()).glob(f"minipeft-{os.getpid()}-*"))
    return place, {(r.student, r.exercise): r for r in results}, strange


def test_there_are_thirty(graded):
    _, results, strange = graded
    assert len({student for student, _ in results}) == 30
    assert not strange


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


def test_the_table_has_a_line_for_each_student(graded):
    place, *_ = graded
    head, *lines = csv.reader((place / "grades.csv").read_text(encoding="utf-8").splitlines())
    course = [name for name in exercises() if name in NAMES]
    assert head == ["student", *(f"{n} (of {FULL[n]})" for n in course), "points", f"of {sum(FULL.values())}"]
    assert len(lines) == 30
    assert {line[0]: line[-1] for line in lines}["right00"] == "100 %"


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


def test_a_second_run_goes_on_where_the_first_stopped(graded, monkeypatch):
    place, results, _ = graded
    asked = []
    monkeypatch.setattr(grading, "grade_one", lambda *job: asked.append(job) or results[job[0], job[1]])
    again, _ = grade(place / "submissions", place / "grades.csv", limits=Limits(seconds=2, memory=600))
    assert not asked
    assert {(r.student, r.exercise): r.points for r in again} == {key: r.points for key, r in results.items()}
    with (place / "grades.jsonl").open("a") as book:
        book.write('{"student": "half a li')  # interrupted while writing
    late = place / "submissions" / "right00" / "lora.py"
    late.write_text(late.read_text() + "\n# handed in again\n")
    grade(place / "submissions", place / "grades.csv", limits=Limits(seconds=2, memory=600))
    assert [job[:2] for job in asked] == [("right00", "lora")]


def test_a_page_shows_what_a_student_wrote_as_text(tmp_path):
    result = grading.Result("<b>eve", "lora", "", {"forward": False}, "<script>alert(1)</script>", "<img src=x>")
    grading.write_feedback([result], tmp_path)
    (page,) = (path.read_text() for path in tmp_path.iterdir())
    assert "<script>" not in page
    assert "<img" not in page
    assert "<b>eve" not in page


def test_links_out_of_the_folder_and_what_is_no_exercise_are_not_graded(tmp_path):
    folder = tmp_path / "submissions"
    (folder / "eve").mkdir(parents=True)
    solution = tmp_path / "lora.py"
    solution.write_text(right("lora"))
    os.symlink(solution, folder / "eve" / "lora.py")
    (folder / "eve" / "helpers.py").write_text("x = 1")
    found, strange = collect(folder)
    assert found == {"eve": {}}
    assert {p.name for p in strange} == {"lora.py", "helpers.py"}


@pytest.mark.parametrize(("make", "says"), [(False, "is not a folder"), (True, "there is no submission")])
def test_nothing_to_grade_is_told(make, says, tmp_path):
    if make:
        (tmp_path / "s").mkdir()
    with pytest.raises(ValueError, match=says):
        grade(tmp_path / "s", tmp_path / "grades.csv")


def test_the_command_grades_and_prints_a_table(tmp_path):
    (tmp_path / "s" / "ann").mkdir(parents=True)
    (tmp_path / "s" / "ann" / "lora.py").write_text(right("lora"))
    shutil.copy(tmp_path / "s" / "ann" / "lora.py", tmp_path / "s" / "ann" / "other.py")
    places = {"--out": tmp_path / "g.csv", "--feedback": tmp_path / "f", "--workers": 1}
    words = [str(word) for pair in places.items() for word in pair]
    done = CliRunner().invoke(app, ["grade", str(tmp_path / "s"), *words], catch_exceptions=False)
    assert done.exit_code == 0
    assert "ann" in done.output
    assert "belongs to no exercise" in done.output
    assert (tmp_path / "f" / "ann.html").exists()
