"""`pip install .` gives all of minipeft but the lessons: models, exercises and questions come with it.

It needs a network, for pip fetches setuptools; that is why it stands here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def away(tmp_path_factory):
    """A folder that minipeft was installed into, and a folder to work in that knows nothing of the clone."""
    source, installed = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    for name in names or [p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file()]:
        if str(name).startswith(("minipeft/", "tiny_models/", "pyproject", "setup", "README", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(installed), str(source)]
    subprocess.run(pip, check=True, capture_output=True)
    return installed, tmp_path_factory.mktemp("elsewhere")


def said(away, *command):
    installed, elsewhere = away
    env = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run([sys.executable, *command], cwd=elsewhere, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_it_is_the_installed_package_that_answers(away):
    assert str(away[0]) in said(away, "-c", "import minipeft; print(minipeft.__file__)")


def test_the_base_comes_with_it(away):
    assert "efccbd" in said(away, "-m", "minipeft", "generate", "reverse next : cabbed =")


def test_an_exercise_can_be_begun_and_checked(away):
    assert "LoRALinear.forward" in said(away, "-m", "minipeft", "start", "lora")
    assert "not written yet" in said(away, "-m", "minipeft", "check", "work/lora.py")


def test_questions_come_with_it(away):
    assert "1. " in said(away, "-c", "from minipeft.classroom import questions; questions.quiz(questions.lessons()[0])")
