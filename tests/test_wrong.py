"""Solutions in other people's words: `wrong/EXERCISE/*.py` are rejected and told why, `right/EXERCISE/*.py` pass.

A wrong one says in its first lines what is wrong with it and what it should earn, words of the report on it:

    # LoRA whose update is divided by the square root of the rank.
    # earns: The scale s is not what r and α give.

Where it says `# earns nothing: why`, the checker rejects it and can only describe a symptom that does not help.
"""

import re
from pathlib import Path

import pytest

from minipeft.classroom.engine import reading
from minipeft.classroom.engine.exercise import exercises
from tests.solutions import judged

HERE = Path(__file__).parent
WRONG, RIGHT = (sorted((HERE / kind).glob("*/*.*")) for kind in ("wrong", "right"))


def each(paths):
    """Parameters, those of one exercise in one process, beside the tests of its bank: what is seen there is kept."""
    group = [pytest.mark.xdist_group(f"bank of {path.parent.name}") for path in paths]
    params = [pytest.param(path, marks=mark) for path, mark in zip(paths, group, strict=True)]
    return pytest.mark.parametrize("path", params, ids=[f"{path.parent.name}/{path.stem}" for path in paths])


def report(path):
    return judged(path.parent.name, reading.text_of(path))


def earned(path):
    """What the head of a wrong solution says that it should earn; None where it says that it earns nothing."""
    found = re.search(r"^# earns(?: nothing)?: (.+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{path} does not say what it earns"
    return None if "nothing" in found[0].partition(":")[0] else found[1].strip()


@each(WRONG)
def test_a_wrong_solution_is_rejected_and_told_why(path):
    found = report(path)
    assert not found.passed
    assert not found.problem, found.problem
    assert found.finding, "it is wrong, not unfinished"
    if (words := earned(path)) is not None:
        assert words in found.text()


@each(RIGHT)
def test_a_right_solution_in_other_words_passes(path):
    found = report(path)
    assert found.passed, found.text()


def test_nine_of_ten_wrong_solutions_are_told_why():
    told = [path for path in WRONG if earned(path) is not None]
    assert len(told) >= 0.9 * len(WRONG)


@pytest.mark.parametrize("x", exercises())
def test_every_exercise_was_attacked(x):
    assert len([path for path in WRONG if path.parent.name == x]) >= 6
