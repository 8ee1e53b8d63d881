"""What a student runs: pytest tests/exercises --mine work

Each exercise that has a file in the folder is checked in a child process and gets one diagnosis. Without --mine the
same is done with the project's own files, in which every body is written.
"""

import pytest

from minipeft.classroom import desk
from minipeft.classroom.engine.check import hints_wanted
from minipeft.classroom.engine.exercise import exercises, get_exercise


def pytest_generate_tests(metafunc):
    folder = metafunc.config.getoption("--mine")
    names = list(exercises())
    if folder is not None:
        names = [name for name in names if file_of(name, folder)] or ["none"]
    metafunc.parametrize("name", names)


def file_of(name, folder):
    return next((path for suffix in (".py", ".ipynb") if (path := folder / f"{name}{suffix}").is_file()), None)


def test_exercise(name, request, tmp_path):
    folder, seed = (request.config.getoption(option) for option in ("--mine", "--variant"))
    if name == "none":
        pytest.fail(f"no exercise is begun in {folder}; begin one: python -m minipeft start lora", pytrace=False)
    if folder is None:
        path = tmp_path / f"{name}.py"
        path.write_text(get_exercise(name).plain(), encoding="utf-8")
    else:
        path = file_of(name, folder)
    report = desk.check_file(path, name, seed)
    if not report.passed:
        pytest.fail(report.text(hints_wanted(request.config.getoption("--hints"))), pytrace=False)
