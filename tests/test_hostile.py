"""A class of sixty with forty-six hostile submissions in it: nobody hurts anybody else, and nothing is left behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from minipeft.classroom.engine.exercise import get_exercise
from minipeft.classroom.grading.sandbox import remove_stale_folders
from tests import hostile
from tests.solutions import judged

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are counted in /proc")
ROOT = Path(__file__).parents[1]


def start(place, mark):
    """A grader of its own, which all its processes can be known by."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.hostile", str(place)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"MINIPEFT_MARK": mark, "TMPDIR": str(place / "tmp"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def left(mark):
    """The processes that a grader, or what it started, has left."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"MINIPEFT_MARK={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def left_soon(mark):
    """What is still there after some seconds; a process needs a moment to end."""
    until = time.monotonic() + 10
    while left(mark) and time.monotonic() < until:
        time.sleep(0.1)
    return left(mark)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    place = tmp_path_factory.mktemp("sixty")
    (place / "tmp").mkdir()
    hostile.hand_in(hostile.a_class(), place / "submissions")
    grader = start(place, mark := f"class{os.getpid()}")
    _, said = grader.communicate(timeout=240)
    assert grader.returncode == 0, said
    assert left_soon(mark) == []
    lines = (place / "grades.jsonl").read_text(encoding="utf-8").splitlines()
    results = [told for told in map(json.loads, lines) if told.get("state") == "graded"]
    return place, {(r["student"], r["exercise"]): r for r in results}


def points(result):
    return sum(result["groups"].values())


def test_there_are_sixty(graded):
    place, results = graded
    assert len(hostile.NAMES) == 46
    assert len({student for student, _ in results}) == 60
    assert set(results) == {(student, name) for student, mine in hostile.a_class().items() for name in mine}
    _, *rows = csv.reader((place / "grades.csv").read_text(encoding="utf-8").splitlines())
    assert len(rows) == len(list((place / "feedback").iterdir())) == 60


def test_every_honest_mark_is_right(graded):
    _, results = graded
    for student, mine in hostile.honest().items():
        for name, text in mine.items():
            exercise = get_exercise(name)
            here = dict.fromkeys(exercise.groups, False) | judged(name, text).groups()
            assert results[student, name]["groups"] == here, (student, name, results[student, name]["texts"])
    for i in range(len(hostile.NAMES)):
        name = hostile.OTHERS[i % 3]
        assert points(results[f"hostile {i:02}", name]) == len(get_exercise(name).groups)


@pytest.mark.parametrize("i", range(46), ids=hostile.NAMES)
def test_a_hostile_one_gains_nothing_and_is_told_why(graded, i):
    _, results = graded
    result, words = results[f"hostile {i:02}", "lora"], hostile.words_of(hostile.NAMES[i])
    if words is None:
        assert points(result) == len(result["groups"]), result["texts"][-1]
        assert "got through" not in result["output"]
    else:
        assert not result["groups"]["forward"]
        assert any(word in result["texts"][-1] for word in words), result["texts"][-1]


def test_the_grader_is_as_it_was_and_no_file_is_left(graded):
    place, _ = graded
    before, after = json.loads((place / "grader.json").read_text())
    assert before == after
    assert list((place / "tmp").glob("minipeft-*")) == []
    assert {p.name for p in place.iterdir()} == {
        "tmp", "submissions", "grades.csv", "grades.jsonl", "grades.html", "feedback", "grader.json",
    }  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_grader_that_is_killed(how, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    hostile.hand_in({"eve": {"lora": hostile.text_of("sleeps")}}, tmp_path / "submissions")
    grader = start(tmp_path, mark := f"killed{os.getpid()}{how}")
    until = time.monotonic() + 60
    while not list((tmp_path / "tmp").glob("minipeft-*")) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
    grader.send_signal(how)
    grader.communicate(timeout=10)
    assert left_soon(mark) == []
    stale = tmp_path / "tmp" / f"minipeft-{grader.pid}-abcdefgh"
    stale.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    mine = Path(tempfile.mkdtemp(prefix=f"minipeft-{os.getpid()}-"))
    remove_stale_folders()
    assert list((tmp_path / "tmp").glob("minipeft-*")) == [mine]
