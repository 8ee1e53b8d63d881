"""The student's side: emptied files, definitions taken from files and notebooks, the diagnosis, the desk, `use`."""

import ast
import json
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn
from typer.testing import CliRunner

import minipeft
from minipeft.attach import WeightWrapper
from minipeft.classroom import (
    check,
    desk,
    diagnose,
    expect,
    using,
)
from minipeft.classroom.engine import compare, observe, reading, source, taken
from minipeft.classroom.engine.check import exercise_of
from minipeft.classroom.engine.exercise import PACKAGE, exercises, get_exercise
from minipeft.classroom.engine.observation import Observation
from minipeft.classroom.engine.recognise import reference
from minipeft.cli import app
from minipeft.exercises import models
from minipeft.lab import Lab, pool
from minipeft.methods import bitfit, qlora
from minipeft.methods import lora as own
from minipeft.models import transformer
from tests import solutions
from tests.solutions import mistaken, replaced

LORA = get_exercise("lora")
NO_SCALE = mistaken(LORA, 0)


@pytest.fixture(autouse=True)
def _give_back():
    yield
    using.use(None)


def judged(text, seed=None):
    return solutions.judged("lora", text, seed)


def with_bodies(**bodies):
    """The emptied file with some of its bodies written: {"LoRALinear.forward": code}, dots as two underscores."""
    text = source.emptied(LORA.plain(), LORA.stubs)
    for name, code in bodies.items():
        mark = f'raise NotImplementedError("{name.replace("__init__", "@").replace("__", ".").replace("@", "__init__")}'
        (line,) = [line for line in text.splitlines() if mark in line]
        indent = line[: len(line) - len(line.lstrip())]
        text = text.replace(line, "\n".join(indent + c for c in code.splitlines()))
    return text


# -- emptying and taking ----------------------------------------------------------------------------------------------

SMALL = '''"""A file."""

import math

LEVELS = [
    1,
    2,
]
OTHER = 3  # stays


class Thing:
    """Kept."""

    def one(self): return 1

    def two(self, x):  # (B, T)
        """Kept too."""
        # a comment of the body
        y = x + 1  # and one more

        return y


def three(x=2):
    if x:
        return 1
    return math.pi
'''


def test_emptying_keeps_everything_but_the_bodies():
    text = source.emptied(SMALL, ("LEVELS", "Thing.two", "three"))
    assert "LEVELS = ...  # your turn" in text
    assert 'raise NotImplementedError("Thing.two: your turn (about 2 lines)")' in text
    assert 'raise NotImplementedError("three: your turn (about 3 lines)")' in text
    for kept in ("# (B, T)", '"""Kept too."""', "OTHER = 3  # stays", "def one(self): return 1", "def three(x=2):"):
        assert kept in text
    for gone in ("y = x + 1", "math.pi", "    1,"):
        assert gone not in text
    ast.parse(text)


@pytest.mark.parametrize(
    ("body", "empty"),
    [
        ('raise NotImplementedError("f: your turn")', True),
        ("raise NotImplementedError", True),
        ("pass", True),
        ("...", True),
        ('"""Only a docstring."""', True),
        ('"""With one."""\n    pass', True),
        ("return None", False),
        ("raise ValueError", False),
        ("x = 1\n    raise NotImplementedError", False),
    ],
)
def test_a_body_counts_as_written_when_it_does_something(body, empty):
    assert reading.is_empty(ast.parse(f"def f():\n    {body}").body[0]) is empty


def test_a_notebook_gives_its_definitions_and_nothing_is_run(tmp_path):
    cells = [
        "%matplotlib inline\nimport torch.nn.functional as F\n!rm -rf somewhere",
        "this is not Python",
        "raise SystemExit('a cell that must not run')",
        "from minipeft import LoRA\nLoRA(rank=2)\nx = open('evil', 'w')",
        "FACTOR = 2 / 2",
        "def helper(h):\n    return h * FACTOR",
        "class LoRALinear:\n    def forward(self, x):\n        h = F.linear(self.dropout(x), self.A)\n"
        "        return self.base(x) + F.linear(helper(self.scale * h), self.B)",
    ]
    book = {"cells": [{"cell_type": "code", "source": c.splitlines(True)} for c in cells], "nbformat": 4}
    (tmp_path / "lora.ipynb").write_text(json.dumps(book))
    report = diagnose("lora", tmp_path / "lora.ipynb")
    assert report.stubs["LoRALinear.forward"] == "right"
    assert set(report.stubs.values()) == {"right", "not written yet"}
    assert not report.finding
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.py", b"def f(:\n", r"not Python yet: .* in line 1: `def f\(:`"),
        ("a.py", b"\xff\xfe\x00", "not a text file"),
        ("a.ipynb", b"{}", "not a notebook"),
        ("a.py", b"x = " + b"(" * 5000, "not Python yet"),
    ],
)
def test_what_cannot_be_read_is_told(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(reading.Unreadable, match=says):
        reading.parsed(reading.text_of(tmp_path / name))
    assert not diagnose("lora", tmp_path / name).passed


def test_an_import_that_a_solution_has_no_need_of_is_left_out_and_told():
    text = with_bodies(LoRA__scale="return os.getpid()").replace("import math\n", "import math\nimport os\n")
    report = judged(text)
    assert "name 'os' is not defined" in report.finding.symptom
    assert any("import of os" in note for note in report.notes)
    assert "Your import of os is left out: do without it." in report.finding.symptom


def test_a_name_may_come_from_a_module_that_the_reference_imports_from():
    text = with_bodies(LoRA__groups="return [{'params': [*trainable(model).values()], 'lr': lr}]")
    text = text.replace("import math\n", "import math\nfrom minipeft.attach import trainable\n", 1)
    assert "NameError" not in judged(text).text()


def test_what_stands_outside_the_exercise_is_the_projects_own():
    """A student who has damaged the rest of the file is not confused by it."""
    text = LORA.plain().replace(
        "        wrap(model, self.targets,", "        return\n        wrap(model, self.targets,"
    )
    assert text != LORA.plain()
    assert judged(text).passed


# -- unusual forms: they work, or it is said what was left out. Whole solutions of that kind: tests/right/*/form_*.py --


def noted(text, exercise=LORA):
    tree = reading.parsed(text)
    return list(taken.notes(text, tree, exercise.tree(), exercise.stubs, taken.Additions(tree, exercise.tree())))


def forward_with(above, use):
    """A file with something above the class, and a forward that uses it."""
    return f"{above}\n\nclass LoRALinear(WeightWrapper):\n    def forward(self, x):\n        one = {use}\n" + (
        "        return self.base(x) + one * self.scale * F.linear(F.linear(self.dropout(x), self.A), self.B)\n"
    )


@pytest.mark.parametrize(
    ("above", "use"),
    [
        ("import math\nSQRT = math.sqrt\nTWO = SQRT(4)", "TWO / 2"),
        ("from math import sqrt as root\nONES = {'a': root(1.0)}", "ONES['a']"),
        ("from math import *\nFULL_TURN = 2 * pi", "FULL_TURN / tau"),
        ("softmax = lambda x: torch.softmax(x, -1)\nimport torch", "softmax(torch.zeros(1, dtype=x.dtype))"),
        ("import torch as t\nEPS = t.finfo(t.float32).eps", "1 + 0 * EPS"),
        ("import torch\nTensor = torch.Tensor\nONE: Tensor = torch.ones(1).double().sum()", "ONE"),
        ("import numpy as np\nONE = np.float64(1)\nTABLE = np.array([ONE, 2.0])", "TABLE[0]"),
        ("from functools import partial\ndef twice(x, y):\n    return x * y\nhalf = partial(twice, 0.5)", "half(2)"),
        ("from collections import namedtuple\nPair = namedtuple('Pair', 'a b')\npair = Pair(1, 2)", "pair.a"),
        ("import torch\nTABLE = {'ones': torch.ones(1)}\nONE = TABLE['ones'].double()\nTWO = ONE.item()", "TWO"),
        ("ONE, TWO = 1, 2\n(A, *B) = [ONE, TWO]", "A"),
        ("TWO, ONE = ONE, TWO = (1, 2)", "ONE"),
        ("ONE = 1 if torch.cuda.is_available() else 1.0\nimport torch", "1"),
        ("act = nn.Identity()\nfrom torch import nn", "act(1)"),
        ("class Helper:\n    class Inner:\n        value = 1\nAlias = Helper", "Alias.Inner.value"),
        ("class Deep(LoRALinear):\n    value = 1\nAlso = Deep", "Also.value"),
        ("Same = LoRALinear\nLoRALinear_one = Same.__name__ == 'LoRALinear'", "LoRALinear_one"),
        ("try:\n    import einops\nexcept ImportError:\n    einops = None", "1 if einops is None else 1.0"),
        ("try:\n    ONE = 1\nfinally:\n    print()", "ONE"),
        ("if 1 + 1 == 2:\n    def first(): return 1\nelse:\n    def first(): return 2", "first()"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import math", "math.cos(0)"),
        ("import functools\n@functools.cache\ndef first(x=1.0): return x", "first()"),
        ("import statistics\nONE = statistics.NormalDist", "ONE().stdev"),
    ],
)
def test_a_constant_or_short_name_outside_of_the_bodies_is_there(above, use):
    report = judged(forward_with(above, use))
    assert report.stubs["LoRALinear.forward"] == "right", report.text()
    assert not any("left out" in note for note in report.notes), report.notes


@pytest.mark.parametrize(
    ("above", "use", "says"),
    [
        ("ONE = open('one')", "ONE", "left out: ONE in line 1, which your solution uses"),
        ("ONE = [i for i in range(2)][1]", "ONE", "left out: ONE in line 1"),
        ("ONE = first()\ndef first(): return 1", "ONE", "left out: ONE in line 1"),
        ("TABLE = [0, 0]\nfor i in range(2):\n    TABLE[i] = 1", "TABLE[0]", "left out: TABLE in line 2"),
        ("TABLE = []\nTABLE.append(1)", "TABLE[0]", "left out: TABLE in line 2"),
        ("FUNCTIONS = [print]\nONE = FUNCTIONS[0]()", "ONE", "left out: ONE in line 2"),
        ("ONE = 0\nONE += 1", "ONE", "left out: ONE in line 2"),
        ("import os", "len(os.sep)", "left out: import of os in line 1, which a solution may not use"),
        ("import torch\nbad = torch.eye(2) @ torch.eye(3)\nprint(bad)", "0", "not run: 2 statements outside"),
        ("if True:\n    class LoRA:\n        def scale(self, rank): return 1", "0", "left out: LoRA in line 2, which"),
        ("class LoRA:\n    if 1:\n        def scale(self, rank): return 1", "0", "left out: LoRA.scale in line 3"),
        ("class LoRA:\n    @property\n    def scale(self): return 1", "0", "LoRA.scale in line 3 is a property, where"),
        ("class LoRA:\n    async def scale(self, rank): 1", "0", "LoRA.scale in line 2 is an async function"),
        ("class LoRA:\n    def insert(self, model): return 1", "0", "not used: your LoRA.insert in line 2"),
        ("@final\nclass LoRA(Method):\n    pass", "0", "bases and decorators of LoRA, in line 2, are"),
        ("LoRA.scale = lambda self, rank: 1", "0", "left out: LoRA in line 1"),
        ("def check():\n    assert (1 == 2, 'a pair')", "0", "always true: `assert` of a pair in brackets, in line 2"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_left_out_is_told_with_its_line(above, use, says):
    report = judged(forward_with(above, use))
    assert not report.passed
    assert any(note.startswith(f"({says}") for note in report.notes), report.notes
    assert report.text().endswith("\n".join(report.notes))


def test_a_module_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(taken, "installed", lambda name: name != "einops")
    text = forward_with("from einops import rearrange", "rearrange(x)")
    assert noted(text)[0].startswith("left out: import of rearrange from einops in line 1, which is not installed here")
    report = judged(text)
    assert "name 'rearrange' is not defined" in report.finding.symptom
    text = forward_with("try:\n    import einops\nexcept ImportError:\n    einops = None", "1")
    assert not any("einops" in note for note in noted(text))


def test_nothing_is_said_where_nothing_is_left_out():
    assert noted(LORA.plain()) == []
    assert noted(source.emptied(LORA.plain(), LORA.stubs, LORA.hidden)) == []
    for name in exercises():
        x = get_exercise(name)
        assert noted(x.plain(), x) == [], name


def test_an_error_in_a_constant_names_its_line():
    report = judged(forward_with("import torch\nEPS = torch.finfo(torch.float32).epsilon", "EPS"))
    assert "in line 2: `EPS = torch.finfo(torch.float32).epsilon`" in report.text()
    report = judged(forward_with("def twice(x):\n    return await x", "twice(1)"))
    assert "SyntaxError: 'await' outside async function" in report.text()
    assert "in line 2: `return await x`" in report.text()


def write_notebook(path, *cells, encoding="utf-8"):
    book = {"cells": [{"cell_type": "code", "source": c.splitlines(True)} for c in cells], "nbformat": 4}
    path.write_text(json.dumps(book), encoding=encoding)
    return path


FORWARD = forward_with("", "1").strip()


@pytest.mark.parametrize(
    "cell",
    [
        "%%time\n{}",
        "%%capture out\n{}",
        "%load_ext autoreload\n!ls -l \\\n  /tmp\n{}",
        "{}\nLoRALinear?",
        "{}\nLoRALinear.forward??  # look",
        "{}\n?LoRALinear",
        "files = !ls\n{}",
        "{}\n%timeit -n 1 LoRALinear\nfor i in range(3):\n    %time print(i)",
        "\ufeff{}",
        "here = %pwd\n{}",
        "x = (10\n% 3)\n{}",
        "{}\n!echo don't (",
    ],
)
def test_a_notebooks_own_commands_do_not_hide_a_cell(cell, tmp_path):
    report = diagnose("lora", write_notebook(tmp_path / "lora.ipynb", "import torch", cell.format(FORWARD)))
    assert report.stubs["LoRALinear.forward"] == "right", report.text()
    assert not any("left out" in note for note in report.notes)


def test_a_mark_of_the_byte_order_is_no_part_of_the_text(tmp_path):
    (tmp_path / "lora.py").write_text(LORA.plain(), encoding="utf-8-sig")
    assert diagnose("lora", tmp_path / "lora.py").passed
    book = write_notebook(tmp_path / "lora.ipynb", LORA.plain(), encoding="utf-8-sig")
    assert diagnose("lora", book).passed


def test_a_cell_with_a_syntax_error_is_the_problem_if_it_holds_what_is_asked_for(tmp_path):
    broken = FORWARD.replace("return self.base(x) +", "return self.base(x) + +/")
    book = write_notebook(tmp_path / "lora.ipynb", "import torch", "a note", broken)
    report = diagnose("lora", book)
    assert report.problem.startswith(
        "code cell 3 is not Python yet: invalid syntax in line 4: `return self.base(x) + +/"
    )
    assert report.problem.endswith("It holds LoRALinear.forward")
    assert desk.check_file(book).problem == report.problem
    book = write_notebook(tmp_path / "lora.ipynb", "import torch", "a note", broken, FORWARD)
    report = diagnose("lora", book)
    assert report.stubs["LoRALinear.forward"] == "right"
    assert "(left out: code cell 2, which is not Python: invalid syntax in line 1: `a note`)" in report.notes
    assert any("code cell 3" in note for note in report.notes)
    book = write_notebook(tmp_path / "lora.ipynb", "import torch", "%%bash\nls", FORWARD)
    assert "(left out: code cell 2, which is not Python: it begins with %%bash)" in diagnose("lora", book).notes


def test_an_error_in_a_notebook_names_the_cell(tmp_path):
    wrong = FORWARD.replace("one = 1", "one = ONE")
    for place, cells in ((1, [wrong]), (2, ["import torch", wrong])):
        book = write_notebook(tmp_path / "lora.ipynb", *cells, "print(3)")
        report = diagnose("lora", book)
        assert f"is not defined in line 3 of code cell {place}: `one = ONE`" in report.text()
        assert f"in line 1 of code cell {place + 1})" in report.notes[-1]
    assert "line 3 of code cell 2" in desk.check_file(book).text(), "a child process tells the same"


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    assert observe.plain(np.float64(0.5)) == 0.5
    assert observe.plain({"a": [np.int64(3), np.bool_(True)]}) == {"items": {"a": [3, True]}}
    report = judged(
        with_bodies(LoRA__scale="import numpy\nreturn self.alpha / numpy.sqrt(rank if self.rslora else rank**2)")
    )
    assert report.stubs["LoRA.scale"] == "right", report.text()


def test_a_child_process_takes_the_same_forms(tmp_path):
    for path in sorted(Path(__file__).parent.glob("right/*/form_*")):
        copied = tmp_path / f"{path.parent.name}{path.suffix}"
        copied.write_bytes(path.read_bytes())
        assert desk.check_file(copied).passed, path


def test_a_decorated_function_of_a_notebook_keeps_what_its_decorator_needs():
    from contextlib import contextmanager

    class LoRALinear(WeightWrapper):
        __init__, delta = globals()["LoRALinear"].__init__, globals()["LoRALinear"].delta

        @contextmanager
        def nothing(self):
            yield 1

        def forward(self, x):
            with self.nothing() as one:
                return self.base(x) + one * self.scale * self.dropout(x) @ self.A.T @ self.B.T

    expect("lora", LoRALinear)


# -- diagnosing -------------------------------------------------------------------------------------------------------


def test_the_first_symptom_names_the_ratio_and_the_mistake():
    said = judged(NO_SCALE).text()
    assert "Yours is 0.33 times the expected one." in said
    assert "This looks like: the scale s is left out" in said
    assert "To read: Hu et al. 2021" in said


def test_hints_come_in_rungs():
    report = judged(NO_SCALE)
    symptom, question, hint, read = (report.text(hints=n) for n in (1, 2, 3, 4))
    assert "Ask yourself" not in symptom
    assert "Ask yourself" in question
    assert "This looks like" not in question
    assert "This looks like" in hint
    assert "To read" not in hint
    assert "To read" in read


def test_two_mistakes_in_two_bodies_are_told_one_after_the_other():
    both = replaced(mistaken(LORA, 1), ("return self.scale * (self.B @ self.A).T  # (V, d)", "return 0"))
    report = judged(both)
    assert report.stubs["LoRALinear.forward"] == report.stubs["LoRAEmbedding.delta"] == "wrong"
    assert report.stubs["LoRALinear.delta"] == "right"
    assert report.finding.stub == "LoRALinear.forward"
    assert report.finding.mistake is LORA.mistakes[1]


def test_an_error_names_the_students_line():
    report = judged(with_bodies(LoRALinear__forward="h = F.linear(x, self.A)\nreturn h + undefined"))
    assert report.finding.stub == "LoRALinear.forward"
    assert "NameError: name 'undefined' is not defined" in report.finding.symptom
    assert "`return h + undefined`" in report.finding.symptom
    assert "Traceback" not in report.text()


def test_attributes_may_have_other_names_where_a_class_is_consistent():
    first, rest = LORA.plain().split("class LoRAEmbedding")
    for old, new in (
        ("self.scale, ", "self.s, "),
        ("self.scale * self.B)", "self.s * self.B)"),
        ("n self.scale *", "n self.s *"),
    ):
        assert old in first
        first = first.replace(old, new)
    assert judged(first + "class LoRAEmbedding" + rest).passed
    wrong = first.replace("return self.s * self.B", "return self.B") + "class LoRAEmbedding" + rest
    report = judged(wrong)
    assert not report.passed
    assert "merged" in report.finding.symptom or "ΔW" in report.finding.symptom


def test_an_unknown_mistake_gets_its_symptom_and_no_guess():
    text = replaced(
        LORA.plain(), ("return self.scale * self.B @ self.A  # (out, in)", "return 1.7 * self.scale * self.B @ self.A")
    )
    report = judged(text)
    assert report.finding.mistake is None
    assert "1.70 times" in report.finding.symptom


@pytest.mark.parametrize(
    ("expected", "got", "says"),
    [
        (2.0, 8.0, "4.00 times the expected one"),
        (2.0, -2.0, "the expected one with the sign turned"),
        (0, 3, "It should be 0, yours is 3"),
        (8704, 0, "^Yours is 0.$"),
        ([1, [2, 3]], [1, [2, 4]], "Number 2.2: Yours is 1.33 times"),
        (torch.ones(3), 4 * torch.ones(3), "4.00 times the expected one"),
        (torch.ones(2, 3), torch.ones(3, 2), r"Expected the shape \(2, 3\), got \(3, 2\)"),
        (torch.ones(3), torch.zeros(3), "zero everywhere"),
        (torch.zeros(3), torch.tensor([0, 0, 0.25]), "It should be zero everywhere, yours reaches 0.25"),
        (torch.zeros(3), torch.tensor([0, 0, 1e-7]), "yours reaches 1e-07. That is the rounding of float32"),
        (torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 2, 4]), "1 of 3 numbers differ, by up to 1"),
        (torch.ones(2), torch.tensor([1.0, torch.nan]), "holds NaN"),
        ({"A": 1, "B": 2}, {"A": 1}, "Missing: B"),
        ({"A": 1}, {"A": 1, "bias": 2}, "Too many: bias"),
        ({"A": True}, {"A": False}, "A: Expected True, got False"),
        ([1, 2], [1], "Expected 2 of them, got 1"),
        ([1, 2], [1, 4], "Number 2: Yours is 2.00 times"),
        (1, {"x": 1}, "got"),
    ],
)
def test_a_difference_is_said_in_words(expected, got, says):
    expected, got = observe.plain(expected), observe.plain(got)
    assert not compare.same(expected, got)
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(compare.difference(expected, got))


def test_equal_is_equal_up_to_rounding_and_nan_is_nan():
    assert compare.same(1.0, 1.0 + 1e-9)
    assert not compare.same(1.0, 1.0 + 1e-4)
    assert compare.same(
        observe.plain(torch.tensor([1.0, torch.nan, torch.inf])),
        observe.plain(torch.tensor([1.0, torch.nan, torch.inf])),
    )
    assert not compare.same(True, 1.5)
    assert not compare.same([1, "a"], [1, "b"])
    assert not compare.same({"data": [1], "shape": [1]}, {"data": ["x"], "shape": [1]}), "whatever a child sends"


def test_observations_start_alike_and_leave_no_trace():
    state, kind = torch.random.get_rng_state(), torch.get_default_dtype()
    first = observe.observe(LORA, reference(LORA))
    torch.randn(100)
    assert observe.observe(LORA, reference(LORA)) == first
    torch.random.set_rng_state(state)
    assert torch.get_default_dtype() == kind


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match=r"there is no exercise 'lore'; there are: .*lora"):
        get_exercise("lore")


# -- in a notebook ----------------------------------------------------------------------------------------------------


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        out, into = base.weight.shape
        self.A = nn.Parameter(base.weight.new_empty(rank, into))
        self.B = nn.Parameter(base.weight.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def forward(self, x):
        return self.base(x) + self.scale * self.dropout(x) @ self.A.T @ self.B.T

    def delta(self):
        return self.scale * self.B @ self.A


class Unscaled(LoRALinear):
    def forward(self, x):
        return self.base(x) + self.dropout(x) @ self.A.T @ self.B.T


class Half(WeightWrapper):
    def forward(self, x):
        return self.base(x) + self.scale * self.dropout(x) @ self.A.T @ self.B.T


class Empty(WeightWrapper):
    def forward(self, x):
        raise NotImplementedError("LoRALinear.forward: your turn")


class Undone(WeightWrapper):
    __init__, forward = LoRALinear.__init__, LoRALinear.forward


class Looping(LoRALinear):
    def forward(self, x):
        raise KeyboardInterrupt  # as when a notebook is interrupted


def called(kind, name="LoRALinear"):
    return type(name, (kind,), {}) if kind is LoRALinear else type(name, kind.__bases__, dict(vars(kind)))


def test_a_class_made_in_a_notebook_is_checked(capsys):
    check("lora", LoRALinear)
    assert "lora: right" in capsys.readouterr().out
    expect("lora", LoRALinear)
    Unscaled.__name__ = "LoRALinear"
    check("lora", Unscaled)
    assert "Ask yourself" not in capsys.readouterr().out
    check("lora", Unscaled)
    assert "Ask yourself" in capsys.readouterr().out, "the second time a little more is told"
    check("lora", Unscaled, hints=3)
    said = capsys.readouterr().out
    assert "0.33 times the expected one" in said
    assert "This looks like: forward leaves out the scale s" in said


def test_a_class_with_some_methods_is_completed(capsys):
    Half.__name__ = Empty.__name__ = "LoRALinear"
    check("lora", Half)
    said = capsys.readouterr().out
    assert "· LoRALinear.__init__  not written yet" in said
    assert "✓ LoRALinear.forward" in said
    assert "✗" not in said
    check("lora", Empty)
    assert "not written yet" in capsys.readouterr().out


def test_expect_is_an_assertion_that_tells_and_may_ask_for_one_group():
    Unscaled.__name__ = "LoRALinear"
    with pytest.raises(AssertionError, match="This looks like"):
        expect("lora", Unscaled)
    expect("lora", Unscaled, group="start")
    with pytest.raises(AssertionError):
        expect("lora", Unscaled, group="forward")
    with pytest.raises(ValueError, match="no group 'forwards'; there are: set-up, start"):
        expect("lora", Unscaled, group="forwards")


def test_a_group_counts_although_another_body_or_another_class_is_not_written():
    Half.__name__ = Undone.__name__ = "LoRALinear"
    expect("lora", Undone, group="set-up")
    expect("lora", Undone, group="forward")
    with pytest.raises(AssertionError, match="delta  not written yet"):
        expect("lora", Undone, group="merge")
    with pytest.raises(AssertionError, match="__init__  not written yet"):
        expect("lora", Half, group="set-up")


def test_a_group_that_is_right_is_not_kept_waiting_by_a_body_that_loops():
    Looping.__name__ = "LoRALinear"
    expect("lora", Looping, group="set-up")
    with pytest.raises(KeyboardInterrupt):
        expect("lora", Looping, group="forward")


def test_the_projects_own_handed_in_is_not_written():
    for name, thing in (("lora", own.LoRALinear), ("bitfit", bitfit.is_bias)):
        with pytest.raises(AssertionError, match=f"{name}: not written yet"):
            expect(name, thing)


def test_what_was_not_asked_for_is_told():
    with pytest.raises(ValueError, match="asks for LoRALinear, LoRAEmbedding, LoRA; got Tensor"):
        check("lora", torch.Tensor)


# -- the desk ---------------------------------------------------------------------------------------------------------


def test_start_writes_a_file_once_and_the_progress_follows(tmp_path):
    def lora():
        return desk.progress(tmp_path)["lora"]

    path = desk.start("lora", tmp_path)
    assert lora() == desk.State("0 of 7 written", 0)
    assert not desk.check_file(path).passed
    assert lora() == desk.State("0 of 8 points", 0)
    with pytest.raises(FileExistsError, match="stays as it is"):
        desk.start("lora", tmp_path)
    path.write_text(NO_SCALE)
    assert lora().words == "7 of 7 written"
    report = desk.check_file(path)
    assert not report.passed
    points = sum(report.groups().values())
    assert 0 < points < 8
    assert f"not right yet ({points} of 8 points)" in report.text()
    assert lora() == desk.State(f"{points} of 8 points", points / 8)
    path.write_text(with_bodies(LoRA__scale="return self.alpha / (rank**0.5 if self.rslora else rank)"))
    assert lora() == desk.State("1 of 7 written", points / 8)
    path.write_text(LORA.plain())
    assert desk.check_file(path).passed
    assert lora() == desk.State("right", 1)
    path.write_text("def (")
    assert lora().words == "cannot be read"
    assert "not Python yet" in desk.check_file(path).text()


def test_hints_rise_while_the_same_is_wrong(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIPEFT_HINTS", raising=False)
    path = tmp_path / "lora.py"

    def hints(text):
        path.write_text(text)
        return desk.hints_for(path, desk.check_file(path))

    assert [hints(NO_SCALE) for _ in range(5)] == [1, 2, 3, 4, 4]
    other = next(i for i, m in enumerate(LORA.mistakes) if m.id == "both zero")
    assert hints(mistaken(LORA, other)) == 1, "another mistake starts at the symptom"
    assert hints(NO_SCALE) == 4
    assert hints(LORA.plain()) == 4
    assert hints(NO_SCALE) == 1, "what was right once starts anew"
    assert desk.hints_for(path, desk.check_file(path), hints=3) == 3
    monkeypatch.setenv("MINIPEFT_HINTS", "2")
    assert hints(NO_SCALE) == 2


def test_one_body_is_asked_about_alone(tmp_path):
    path = tmp_path / "lora.py"
    wrong = replaced(mistaken(LORA, 1), ("return self.scale * (self.B @ self.A).T  # (V, d)", "return 0"))
    path.write_text(wrong)
    both = desk.check_file(path)
    assert [f.stub for f in both.findings] == ["LoRALinear.forward", "LoRAEmbedding.delta"]
    lines = both.text().splitlines()
    assert [line for line in lines if line.startswith("LoRAEmbedding.delta: ")], "a line for each body that is wrong"
    alone = desk.check_file(path, only="LoRALinear.delta")
    assert alone.passed
    assert alone.text() == "lora: right (LoRALinear.delta)."
    report = desk.check_file(path, only="LoRAEmbedding.delta")
    assert list(report.stubs) == ["LoRAEmbedding.delta"]
    assert report.finding.stub == "LoRAEmbedding.delta"
    with pytest.raises(ValueError, match=r"lora does not ask for LoRA.forward; it asks for: LoRALinear.__init__"):
        desk.check_file(path, only="LoRA.forward")


def test_a_variant_changes_the_text_and_a_public_solution_fails(tmp_path):
    seed = next(s for s in map(str, range(50)) if [h.id for h in LORA.chosen(s)] == ["square root"])
    path = desk.start("lora", tmp_path, seed)
    text = path.read_text()
    assert f"(variant {seed})" in text.splitlines()[0]
    assert "A rule of your teacher's, unlike the paper's: the scale is α/√r" in text
    assert "s = α/√r; with rslora=True" in text
    head = text.split('"""')[0]
    path.write_text(head + LORA.plain())
    report = desk.check_file(path)
    assert report.finding.mistake.id == "plain rule"
    path.write_text(head + LORA.reference(seed))
    assert desk.check_file(path).passed
    assert diagnose("lora", path).passed, "in a notebook the first line counts too"
    assert not desk.check_file(path, seed="another").passed or LORA.chosen("another") == LORA.chosen(seed)


def test_which_exercise_a_file_is_about(tmp_path):
    def named(file, text):
        (tmp_path / file).write_text(text)
        return exercise_of(tmp_path / file)

    assert named("lora.py", "") == "lora"
    assert named("homework.py", "# minipeft exercise: lora\n") == "lora"
    assert named("homework.py", 'check("lora", LoRALinear)') == "lora"
    with pytest.raises(ValueError, match="which exercise is"):
        named("homework.py", "")
    with pytest.raises(FileNotFoundError, match="minipeft start lora"):
        desk.check_file(tmp_path / "none" / "lora.py")


# -- use --------------------------------------------------------------------------------------------------------------


def test_minipeft_runs_on_the_students_file_once_it_is_right(tmp_path, capsys):
    path = tmp_path / "lora.py"
    path.write_text(
        LORA.plain().replace(
            "        return self.scale * self.B @ self.A  # (out, in)",
            "        LoRALinear.asked = True\n        return factor(self.scale) * self.B @ self.A",
        ) + "\n\ndef factor(s):\n    return 1.0 * s\n"
    )  # fmt: skip
    layer = own.LoRALinear(nn.Linear(3, 2), 1, 1.0)
    before = own.LoRALinear.delta
    minipeft.use(path)
    assert "minipeft now runs on your LoRALinear.__init__, LoRALinear.forward" in capsys.readouterr().err
    layer.delta()
    assert own.LoRALinear.asked, "a layer that was made before, too"
    assert own.LoRALinear(nn.Linear(3, 2), 1, 1.0)(torch.ones(1, 3)).shape == (1, 2), "super() finds its class"
    minipeft.use(None)
    assert own.LoRALinear.delta is before
    assert not hasattr(own, "factor")
    del own.LoRALinear.asked


def test_what_is_not_written_stays_the_projects_own_and_what_is_wrong_is_not_used(tmp_path, capsys):
    path = tmp_path / "lora.py"
    path.write_text(with_bodies(LoRA__scale="return self.alpha / (rank**0.5 if self.rslora else rank)"))
    minipeft.use(path)
    said = capsys.readouterr().err
    assert "runs on your LoRA.scale" in said
    assert "not written yet, so the project's own: LoRALinear.__init__" in said
    minipeft.use(None)
    before = own.LoRA.scale
    path.write_text(NO_SCALE)
    with pytest.raises(ValueError, match="cannot be used yet"):
        minipeft.use(path)
    assert own.LoRA.scale is before


def test_what_keeps_a_thing_under_another_name_is_right_and_cannot_be_used(tmp_path):
    path = tmp_path / "lora.py"
    text = LORA.plain().replace("class LoRAEmbedding", "class Other", 1)
    first, rest = LORA.plain().split("class LoRAEmbedding")
    assert text != LORA.plain()
    renamed = first.replace("self.scale", "self.s").replace("def scale", "def scale")
    path.write_text(renamed + "class LoRAEmbedding" + rest)
    assert desk.check_file(path, "lora").passed
    with pytest.raises(ValueError, match=r"may read LoRALinear.scale, which it does not set: name it so"):
        minipeft.use(path)


@pytest.mark.parametrize("name", ["attention", "block", "positions", "cache"])
def test_the_transformer_itself_runs_on_the_students_file(name, tmp_path):
    path, tokens, mask = tmp_path / f"{name}.py", *models.rows("left")
    path.write_text(get_exercise(name).plain(), encoding="utf-8")
    made = models.model()
    before = made(tokens, mask)
    using.use(path)
    body = next(f for f in get_exercise(name).stubs if "." in f)
    owner, method = body.split(".")
    assert str(path) in getattr(getattr(transformer, owner), method).__code__.co_filename
    assert torch.equal(made(tokens, mask), before)


WHERE = "print(minipeft.methods.lora.LoRALinear.delta.__code__.co_filename)"


def where():
    """The file that LoRA's code is from."""
    return own.LoRALinear.delta.__code__.co_filename


def whose(number):
    """The same, as an experiment for a worker."""
    return {"file": where()}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A student's file that is right, and named by MINIPEFT_USE."""
    path = tmp_path / "lora.py"
    path.write_text(LORA.plain(), encoding="utf-8")
    monkeypatch.setenv("MINIPEFT_USE", str(path))
    return path


def test_an_import_runs_nobodys_file_and_use_asks_for_the_one_that_the_environment_names(mine):
    def run(code):
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    imported, used = run(f"import minipeft; {WHERE}"), run(f"import minipeft; minipeft.use(); {WHERE}")
    assert str(mine) not in imported.stdout
    assert not imported.stderr
    assert str(mine) in used.stdout
    assert used.stderr.startswith("minipeft now runs on your")


def test_commands_that_run_a_method_run_it_on_the_students_file(mine, tmp_path):
    for words in (["start"], ["check", mine]):
        command(*words)
        assert str(mine) not in where(), words
    command("inspect", tmp_path / "none.safetensors")
    assert str(mine) in where()
    using.use(None)
    mine.write_text(NO_SCALE)
    with pytest.raises(ValueError, match="cannot be used yet"):
        CliRunner().invoke(app, ["compare"], catch_exceptions=False)


def test_worker_processes_run_on_the_students_file(mine):
    using.use(mine)
    with Lab(workers=2, progress=False) as lab:
        found = lab(whose, [{"number": number} for number in (1, 2)])
    assert all(str(mine) in run["file"] for run in found)
    using.use(None)
    assert not pool.FIRST


def test_the_kernel_of_a_notebook_runs_on_the_students_file(mine, monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", str(PACKAGE.parent / "lessons" / "startup.py"))  # as run.py does
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"import minipeft\n{WHERE}")])
    NotebookClient(book, kernel_name="python3").execute()
    assert str(mine) in book.cells[0].outputs[0].text


def test_a_check_takes_a_moment():
    """Not a measurement: it only notices when a check has become slow by a factor."""
    judged(LORA.plain())
    began = time.process_time()
    judged(LORA.plain())
    assert time.process_time() - began < 2


# -- the commands -----------------------------------------------------------------------------------------------------


def command(*words):
    done = CliRunner().invoke(app, [str(w) for w in words])
    return done.exit_code, done.output


def test_a_student_starts_checks_reads_the_hint_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = command("start")
    assert code == 0
    assert all(name in said for name in exercises())
    code, said = command("start", "lora")
    assert code == 0
    assert "python -m minipeft check work/lora.py" in said.replace("\n", " ")
    assert command("check", "work/lora.py")[0] == 1
    assert "not written yet" in command("check", "lora")[1]
    Path("work/lora.py").write_text(NO_SCALE)
    code, said = command("check", "lora", "--picture", "seen.png")
    assert code == 1
    assert "0.33 times the expected one" in said
    assert "Ask yourself" not in said
    assert "(hint 1 of 4: check again for the next one, or --hints 4 for all)" in said
    assert "This looks like" in command("check", "lora", "LoRALinear.forward", "--hints", "4")[1]
    assert Path("seen.png").stat().st_size > 2000
    assert command("check", "lora", "--picture", "seen.png")[0] == 1, "it is our own, so it may be drawn again"
    Path("seen.png").write_bytes(b"a photograph")
    for picture in ("work/lora.py", "seen.png"):
        before = Path(picture).read_bytes()
        assert isinstance(CliRunner().invoke(app, ["check", "lora", "--picture", picture]).exception, ValueError)
        assert Path(picture).read_bytes() == before
    assert "This looks like" not in command("check", "lora", "--hints", "2")[1]
    Path("work/lora.py").write_text(LORA.plain())
    code, said = command("check", "lora")
    assert code == 0
    assert "lora: right" in said
    assert "MINIPEFT_USE=work/lora.py" in said
    assert "right" in command("start")[1]
    with pytest.raises(FileExistsError):
        CliRunner().invoke(app, ["start", "lora"], catch_exceptions=False)


def test_a_class_may_be_told_less(monkeypatch, capsys):
    monkeypatch.setenv("MINIPEFT_HINTS", "1")
    Unscaled.__name__ = "LoRALinear"
    check("lora", Unscaled)
    assert "Ask yourself" not in capsys.readouterr().out


def test_a_body_from_a_notebook_finds_the_classes_that_it_is_judged_with():
    """It looks for its own classes by name, and for what else the notebook defines."""
    x = get_exercise("adapter_fusion")
    book = {"__name__": "__main__", "half": 0.5}
    exec(x.plain().replace("class AdapterFusion(Method)", "class AdapterFusion(Method)"), book)
    exec("def twice(x):\n    return 2 * half * x", book)
    expect("adapter_fusion", book["Fusion"], book["AdapterFusion"])


def test_two_threads_look_one_after_the_other_and_leave_the_usual_type():
    """The type of numbers that are made belongs to the whole process, and a grader has threads."""

    def at_work(impl):
        time.sleep(0.1)
        return str(torch.zeros(1).dtype)

    seen = Observation("type", "", "", at_work)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: observe.look(seen, None), range(4)))
    assert found == ["torch.float64"] * 4
    assert torch.get_default_dtype() == torch.float32


# -- in a notebook ----------------------------------------------------------------------------------------------------


def of_a_notebook(text):
    """What a cell defines. Its module is that of a notebook, not of this test."""
    made = {"__name__": "__main__"}
    exec(textwrap.dedent(text), made)
    return made


LORA_CELL = """
    import torch.nn.functional as F
    from minipeft.methods import lora

    class LoRALinear(lora.LoRALinear):
        def forward(self, x):
            return self.base(x) + self.scale * F.linear(F.linear(self.dropout(x), self.A), self.B)
"""


def test_a_class_made_from_the_projects_is_asked_only_for_what_stands_in_it():
    cell = of_a_notebook(LORA_CELL)
    report = diagnose("lora", cell["LoRALinear"], whole=False)
    assert report.passed
    assert report.stubs == {"LoRALinear.forward": "right"}
    assert not diagnose("lora", cell["LoRALinear"]).passed, "who grades asks for all of it"
    empty = of_a_notebook(
        LORA_CELL
        + """
        def delta(self):
            raise NotImplementedError("your turn")
    """
    )
    assert diagnose("lora", empty["LoRALinear"], whole=False).stubs["LoRALinear.delta"] == "not written yet"


def test_what_follows_a_check_runs_on_the_readers_class_if_it_is_right(capsys):
    ours, cell = own.LoRALinear.forward, of_a_notebook(LORA_CELL)
    check("lora", cell["LoRALinear"], use=True)
    assert "What follows runs on your LoRALinear.forward." in capsys.readouterr().out
    assert own.LoRALinear.forward.__code__ is vars(cell["LoRALinear"])["forward"].__code__
    words = minipeft.encode(": cabbed =")[None]
    assert torch.equal(minipeft.LoRA().attach(minipeft.base())(words), minipeft.base()(words))

    wrong = of_a_notebook(LORA_CELL.replace("self.scale * ", ""))
    check("lora", wrong["LoRALinear"], use=True)
    assert "What follows runs on our LoRALinear.forward, until yours is right." in capsys.readouterr().out
    assert own.LoRALinear.forward is ours


def test_a_second_cell_of_an_exercise_leaves_what_the_first_one_gave(capsys):
    text = """
        from minipeft.methods import qlora as own

        def decode(codes, absmax, levels, size):
            return levels.to(absmax)[codes.long()] * absmax.repeat_interleave(size)[: len(codes)]

        class Product(own.Product):
            @staticmethod
            def backward(ctx, grad):
                return grad @ ctx.linear.weight.to(grad), None
    """
    ours = qlora.decode, qlora.Product.backward
    cell, wrong = of_a_notebook(text), of_a_notebook(text.replace("weight.to(grad)", "weight.to(grad) * 2"))
    check("qlora", cell["decode"], use=True)
    check("qlora", cell["Product"], use=True)
    assert "runs on your Product.backward" in capsys.readouterr().out
    assert qlora.decode is not ours[0]
    assert qlora.Product.backward is not ours[1]
    check("qlora", wrong["Product"], use=True)
    assert qlora.decode is not ours[0]
    assert qlora.Product.backward is ours[1]
    using.give_back("qlora")
    assert qlora.decode is ours[0]


def test_a_function_of_a_notebook_takes_the_place_of_the_projects_everywhere(capsys):
    cell = of_a_notebook("""
        import math
        import torch

        def causal(scores):
            return torch.ones_like(scores[0, 0], dtype=torch.bool).tril()

        def attend(q, k, v, mask=None):
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            if mask is not None:
                allowed = causal(scores) if isinstance(mask, str) else mask
                scores = scores.masked_fill(~allowed, -math.inf)
            weights = scores.softmax(-1)
            return weights @ v, weights
    """)
    ours = transformer.attend
    check("attention", cell["attend"], use=True)
    assert "runs on your attend" in capsys.readouterr().out
    assert transformer.attend is not ours
    assert transformer.attend(*torch.ones(3, 1, 1, 2, 4), mask="causal")[1][0, 0, 0].tolist() == [1, 0]
    using.give_back("attention")
    assert transformer.attend is ours


@pytest.mark.parametrize(
    ("name", "ids", "lines"),
    [
        (
            "lora",
            ("no scale", "dropout left out"),
            {"self.scale * self.B)": "self.B)", "self.dropout(x), self.A": "x, self.A"},
        ),
        (
            "attention",
            ("divided by the width", "mask inverted"),
            {"math.sqrt(q.shape[-1])": "q.shape[-1]", "(~mask,": "(mask,"},
        ),
    ],
)
def test_two_mistakes_at_once_in_one_body_are_both_named(name, ids, lines, tmp_path):
    text, exercise = get_exercise(name).reference(), get_exercise(name)
    for old, new in lines.items():
        text = text.replace(old, new, 1)
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    report, known = diagnose(name, path), {m.id: m for m in exercise.mistakes}
    assert report.finding.mistake.id == " + ".join(ids)
    assert all(known[i].what in report.text() and known[i].hint in report.text() for i in ids)
