"""The rules of the house: imports point one way, a method file can be read alone, importing costs little."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import minipeft
from minipeft.attach import Method
from minipeft.lab import TUNED_METHODS
from minipeft.methods import METHODS, Full, LoRA, parse

HOUSE = Path(minipeft.__file__).parent
ORDER = [
    ["models"], ["settings"], ["arguments"], ["checks"], ["attach"], ["targets"], ["views"], ["methods"], ["files"],
    ["deltas"], ["mixing", "arithmetic"], ["tasks"], ["batches", "processes"], ["training"], ["doctor"],
    ["costs", "plots", "published"], ["bases", "worlds"],
    ["lab", "exchange"],
    ["classroom"], ["exercises"], ["talking"], ["cli"],
]  # fmt: skip
FLOOR = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
METHOD_FILES = sorted(p for p in (HOUSE / "methods").glob("*.py") if p.name != "__init__.py")


def imported(path):
    """Dotted names of the modules that a file imports, with what is taken from the package itself spelled out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: write the whole name of a module, not `from .{node.module or ''}`"
            yield from (f"{node.module}.{a.name}" for a in node.names) if node.module == "minipeft" else [node.module]


def room_of(path):
    """A room is a file, or a folder of them."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path",
    [p for p in HOUSE.rglob("*.py") if p.parent != HOUSE or p.stem[0] != "_"],
    ids=lambda p: p.relative_to(HOUSE).as_posix(),
)
def test_imports_point_one_way(path):
    own, names = room_of(path), set(imported(path))
    rooms = {name.split(".")[1] for name in names if name.startswith("minipeft.")}
    assert {room for room in rooms - {own} if FLOOR[room] >= FLOOR[own]} == set()
    assert f"minipeft.{own}" not in names, "a room does not enter through its own door"


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda p: p.name)
def test_a_method_file_stands_alone(path):
    allowed = {"minipeft.attach", "minipeft.targets"} | ({"minipeft.methods.lora"} if path.stem == "qlora" else set())
    for name in imported(path):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or top == "torch" or name in allowed, f"{path.name} imports {name}"
    assert lines(path) <= 180


def test_what_is_read_first_is_short():
    assert lines(HOUSE / "attach.py") <= 200
    assert sum(lines(HOUSE / path) for path in ("models/transformer.py", "attach.py", "methods/lora.py")) <= 720


def test_no_room_is_larger_than_a_third_of_the_code():
    """The classroom has rooms of its own: engine, grading, and what stands beside them."""
    sizes = Counter()
    for path in HOUSE.rglob("*.py"):
        if room_of(path) != "exercises":  # these are data
            inner = path.parent.name if path.parent.parent.name == "classroom" else ""
            sizes[room_of(path), inner] += lines(path)
    room, size = sizes.most_common(1)[0]
    assert size <= sum(sizes.values()) / 3, room


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_registered_method_is_documented_and_its_label_makes_it_again(method):
    assert issubclass(method, Method)
    assert "Args:" in method.__doc__
    assert parse(str(method())) == parse(method.__name__.lower()) == method()


def test_every_registered_method_takes_part_in_the_comparison():
    """But the probe: it needs features that already tell the classes apart, and letters are no classes."""
    assert {type(c.method).__name__ for c in TUNED_METHODS} | {"LinearProbe"} == set(METHODS)


def test_every_method_file_is_registered():
    assert {m.__module__.split(".")[-1] for m in METHODS.values()} == {p.stem for p in METHOD_FILES}


def test_methods_are_read_from_text():
    assert parse("LoRA(rank=2, targets=('up', 'down'), rank_pattern={'up': 1})") == LoRA(
        rank=2, targets=("up", "down"), rank_pattern={"up": 1}
    )
    assert parse("full") == Full()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lora(", "not a method"),
        ("LoRA(rank=print())", "not a method"),
        ("1+1", "not a method"),
        ("LoRA(8)", "names of its settings"),
        ("LoRA(rank_pattern=3)", "dictionary"),
        ("Magic(rank=1)", "there are: Full, .*LoRA"),
        ("LoRA(ranks=1)", "ranks.*LoRA has rank, alpha"),
        ("LoRA(rank=0)", "got 0"),
    ],
)
def test_what_is_no_method_is_told(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_importing_brings_no_figures_and_no_command_line():
    code = "import sys, minipeft; print(*{m.split('.')[0] for m in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], cwd=HOUSE.parent, capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "torch" in loaded
    assert not {"matplotlib", "rich", "typer", "jupytext", "transformers", "peft"} & set(loaded)


def test_the_package_hands_on_what_it_lists():
    assert all(hasattr(minipeft, name) for name in minipeft.__all__)
