"""The assignments that graders/make.py cuts out of the exercises. With the graders themselves: run.py graders."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from minipeft.classroom.engine.exercise import exercises, get_exercise

GRADERS = Path(__file__).parents[1] / "graders"
sys.path.insert(0, str(GRADERS))
import make  # noqa: E402

sys.path.remove(str(GRADERS))

REGION = re.compile(rf"^( *){make.BEGIN}$.*?{make.END}$", flags=re.DOTALL | re.MULTILINE)


def emptied(code):
    """As nbgrader hands it out."""
    return REGION.sub(r"\1# YOUR CODE HERE\n\1raise NotImplementedError()", code)


def run(todo, imports, code_of):
    """The marks, {task: {group: 0 or 1}}, of a notebook whose solutions are `code_of` those of the source."""
    space = {"__name__": "__main__"}
    exec(imports, space)
    marks = {}
    for t in todo:
        exec(code_of(t.code), space)
        for group, code in t.tests.items():
            try:
                exec(code, space)
                marks.setdefault(t.name, {})[group] = 1
            except AssertionError:
                marks.setdefault(t.name, {})[group] = 0
    return marks


def constants(exercise):
    """Does it ask for constants, which graders cannot be handed?"""
    found = ast.parse(exercise.plain()).body
    return any(isinstance(n, ast.Assign) and set(make.reading.names_of(n)) & set(exercise.stubs) for n in found)


ASKABLE = [name for name, exercise in exercises().items() if not constants(exercise)]


def assignment(name, seed=None):
    """Tasks and imports of an exercise."""
    exercise = get_exercise(name)
    todo = make.tasks(exercise, seed=seed)
    return todo, make.opening(exercise, [t.name for t in todo], seed)[1]


def test_constants_are_refused():
    assert 0 < len(ASKABLE) < len(exercises())
    for name in set(exercises()) - set(ASKABLE):
        with pytest.raises(ValueError, match="is a constant, which graders cannot be handed"):
            make.tasks(get_exercise(name))


@pytest.mark.parametrize("name", ASKABLE)
def test_the_solution_has_all_points_and_the_empty_notebook_none(name):
    todo, imports = assignment(name)
    assert all(t.tests for t in todo)
    assert all(mark for marks in run(todo, imports, str).values() for mark in marks.values())
    assert not any(mark for marks in run(todo, imports, emptied).values() for mark in marks.values())


def test_the_points_of_lora():
    todo, imports = assignment("lora")
    assert {t.name: list(t.tests) for t in todo} == {
        "LoRALinear": ["set-up", "start", "forward", "dropout", "merge"],
        "LoRAEmbedding": ["embedding"],
        "LoRA": ["scale", "learning rates"],
    }
    assert [t.name for t in make.tasks(get_exercise("lora"), ["LoRA"])] == ["LoRA"]
    marks = run(todo, imports, lambda code: code.replace("self.scale * self.B)", "self.B)"))
    assert marks["LoRALinear"] == {"set-up": 1, "start": 1, "forward": 0, "dropout": 0, "merge": 0}
    assert all([*marks["LoRAEmbedding"].values(), *marks["LoRA"].values()])


def test_under_house_rules_the_solution_of_the_paper_is_wrong():
    todo, imports = assignment("lora", "autumn")
    plain, _ = assignment("lora")
    assert 'variant="autumn"' in todo[0].tests["forward"]
    assert [list(t.tests) for t in todo] == [list(t.tests) for t in plain]
    assert all(mark for marks in run(todo, imports, str).values() for mark in marks.values())
    paper = {t.code: p.code for t, p in zip(todo, plain, strict=True)}
    assert not all(mark for marks in run(todo, imports, paper.get).values() for mark in marks.values())


def test_the_notebooks_are_in_the_form_that_the_graders_read(tmp_path):
    exercise = get_exercise("lora")
    todo = make.tasks(exercise)
    make.write(make.for_nbgrader(exercise, todo), tmp_path / "a" / "lora.ipynb")
    cells = json.loads((tmp_path / "a" / "lora.ipynb").read_text(encoding="utf-8"))["cells"]
    roles = [c["metadata"]["nbgrader"] for c in cells if "nbgrader" in c["metadata"]]
    assert len({role["grade_id"] for role in roles}) == len(roles)
    assert sum(role.get("points", 0) for role in roles) == 8
    for c in make.for_otter(exercise, todo)["cells"]:
        assert "###" not in c["source"]
        if "# BEGIN SOLUTION NO PROMPT" in c["source"]:
            compile(c["source"], "cell", "exec")
            assert c["source"].count("# END SOLUTION") == c["source"].count("# END PROMPT")


def test_what_a_notebook_cannot_ask_is_told():
    with pytest.raises(ValueError, match="lora asks for LoRALinear, LoRAEmbedding, LoRA; got LoRAConv2d"):
        make.tasks(get_exercise("lora"), ["LoRAConv2d"])
