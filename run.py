"""Sets everything up on first use, then runs a task. Needs nothing but Python 3.10 to 3.13.

python run.py demo        adapt the frozen base with every method, one seed: a table and a picture in about a minute
python run.py test        the tests, on all cores (further words go to pytest:  python run.py test -k lora)
python run.py lab         open the lessons in Jupyter
python run.py lessons     build the notebooks from their sources
python run.py site        the lessons as static pages, to be read without running anything: site/index.html
python run.py play        the playground: a page in which one teaches the frozen base, site/play.html
python run.py claims      every claim of the papers put to the test: lessons/claims.md (--list, or names of claims)
python run.py pretrain    make the shipped base again (or name others; `ladder` for all twelve)
python run.py real        a real language model, which this installs (93 MB), learns to answer like a pirate: lesson 22
python run.py parity      compare with the reference libraries, which this installs
python run.py graders     grade a small class with nbgrader and otter-grader, which this installs (or name one of them)
python run.py browser     the tests of the playground, in a Chromium that has to be there
python run.py style       ruff for Python, deno for JavaScript: check and format
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STARTUP = ROOT / "lessons" / "startup.py"  # what the kernel of a notebook runs first, if MINIPEFT_USE names a file
GRADERS = ("nbgrader", "otter")  # each in a .venv-… of its own: together they would argue about Jupyter's versions
# one thread: models this small are slower, and on a busy machine much slower, on several
ENV = {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
TASKS = {
    "demo": [["-m", "minipeft", "compare"]],
    "test": [["-m", "pytest", "-n", "auto"]],
    "lab": [["-m", "jupyter", "lab", "lessons"]],
    "lessons": [["lessons/build.py"]],
    "site": [["-m", "lessons.pages"], ["play/build.py", "--no-browser"]],
    "play": [["play/build.py"]],
    "claims": [["-m", "claims"]],
    "pretrain": [["tiny_models/pretrain.py"]],
    "real": [["-W", "ignore", "lessons/22_real_model.py"]],  # without windows for its figures
    "parity": [["-m", "pytest", "-n", "auto", "tests/parity"]],
    "graders": [["graders/trial.py"]],
    "browser": [["-m", "pytest", "tests/play"]],
    "style": [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "deno", "lint", "-q"],
        ["-m", "deno", "fmt", "-q", "--check"],
    ],
}
REAL = "requirements-real.txt"  # installed without what its package asks for
MORE = {  # what a task needs besides requirements.txt
    "real": [REAL],
    "parity": ["requirements-parity.txt", REAL],
    "browser": ["requirements-play.txt"],
    "style": ["requirements-play.txt"],
}


def python_of(folder):
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def same_python(python):
    """Is there a .venv of this very Python? What somebody put into it stays."""
    version = [python, "-c", "import sys; print(sys.version)"]
    return python.exists() and subprocess.check_output(version, text=True).strip() == sys.version


def install(requirements, folder=None):
    """Install a requirements file into .venv (or that folder), unless done with the same file and the same Python."""
    folder = folder or VENV
    python = python_of(folder)
    wanted = hashlib.sha256(b"".join((ROOT / f).read_bytes() for f in (requirements, "pyproject.toml")))
    wanted.update(f"{sys.version} {ROOT}".encode())
    stamp = folder / f"{Path(requirements).name}.done"
    if stamp.exists() and stamp.read_text() == wanted.hexdigest():
        return
    size = "93 MB" if requirements == REAL else "a minute or two, about 1.3 GB in all"
    print(f"Installing {requirements} into {folder.name} ({size}) ...", flush=True)
    if not same_python(python):
        venv.create(folder, clear=True, with_pip=True)
    alone = ["--no-deps"] if requirements == REAL else []
    subprocess.check_call([python, "-m", "pip", "install", "-q", *alone, "-r", requirements], cwd=ROOT)
    subprocess.check_call([python, "-m", "pip", "install", "-q", "--no-deps", "-e", "."], cwd=ROOT)
    stamp.write_text(wanted.hexdigest())  # last, so that an interrupted installation starts again


def main(task="", *words):
    if task not in TASKS:
        print(__doc__)
        return 0 if task in ("", "help", "-h", "--help") else 2
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        print(f"minipeft needs Python 3.10 to 3.13, this is {sys.version.split()[0]}: run it with another one")
        return 2
    if task == "graders":
        return graders(*words)
    install("requirements.txt")
    for requirements in MORE.get(task, ()):
        install(requirements)
    env = os.environ | ENV
    if task != "lab":
        env["MPLBACKEND"] = "Agg"
    if used := env.get("MINIPEFT_USE"):  # relative to where one is; commands run here, kernels in the folder of lessons
        env["MINIPEFT_USE"] = os.pathsep.join(str(Path(path).resolve()) for path in used.split(os.pathsep) if path)
        env["PYTHONSTARTUP"] = str(STARTUP)
    for i, command in enumerate(TASKS[task]):
        more = words if i == len(TASKS[task]) - 1 else ()
        code = subprocess.call([python_of(VENV), *command, *more], cwd=ROOT, env=env)
        if code:
            return code
    return 0


def graders(*names):
    if strange := set(names) - set(GRADERS):
        print(f"there are {' and '.join(GRADERS)}; got {', '.join(strange)}")
        return 2
    codes = []
    for name in names or GRADERS:
        folder = ROOT / f".venv-{name}"
        install(f"graders/requirements-{name}.txt", folder)
        codes.append(subprocess.call([python_of(folder), *TASKS["graders"][0], name], cwd=ROOT, env=os.environ | ENV))
    return max(codes)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"The installation failed (see above); mend it and run the same command again. [{error.returncode}]")
    except KeyboardInterrupt:
        sys.exit(130)
