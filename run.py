"""Sets everything up on first use, then runs a task. Needs nothing but Python 3.10 to 3.13.

python run.py demo        adapt the frozen base with every method, print the table, draw the picture
python run.py test        the tests (further words go to pytest:  python run.py test -k lora)
python run.py lab         open the lessons in Jupyter
python run.py lessons     build the notebooks from their sources
python run.py site        the lessons as static pages, to be read without running anything: site/index.html
python run.py pretrain    make the shipped base again
python run.py parity      compare with the reference libraries, which this installs
python run.py style       ruff: check and format
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
TASKS = {
    "demo": [["-m", "minipeft", "compare"]],
    "test": [["-m", "pytest"]],
    "lab": [["-m", "jupyter", "lab", "lessons"]],
    "lessons": [["lessons/build.py"]],
    "site": [["lessons/pages.py"]],
    "pretrain": [["tiny_models/pretrain.py"]],
    "parity": [["-m", "pytest", "tests/parity"]],
    "style": [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."]],
}


def same_python():
    """Is there a .venv of this very Python? What somebody put into it stays."""
    version = [PYTHON, "-c", "import sys; print(sys.version)"]
    return PYTHON.exists() and subprocess.check_output(version, text=True).strip() == sys.version


def install(requirements):
    """Install a requirements file into .venv, unless that was done with the same file and the same Python."""
    wanted = hashlib.sha256(b"".join((ROOT / f).read_bytes() for f in (requirements, "pyproject.toml")))
    wanted.update(f"{sys.version} {ROOT}".encode())
    stamp = VENV / f"{requirements}.done"
    if stamp.exists() and stamp.read_text() == wanted.hexdigest():
        return
    print(f"Installing {requirements} into {VENV.name} (a minute or two, about 1.3 GB in all) ...", flush=True)
    if not same_python():
        venv.create(VENV, clear=True, with_pip=True)
    subprocess.check_call([PYTHON, "-m", "pip", "install", "-q", "-r", requirements], cwd=ROOT)
    subprocess.check_call([PYTHON, "-m", "pip", "install", "-q", "--no-deps", "-e", "."], cwd=ROOT)
    stamp.write_text(wanted.hexdigest())  # last, so that an interrupted installation starts again


def main(task="", *words):
    if task not in TASKS:
        print(__doc__)
        return 0 if task in ("", "help", "-h", "--help") else 2
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        print(f"minipeft needs Python 3.10 to 3.13, this is {sys.version.split()[0]}: run it with another one")
        return 2
    install("requirements.txt")
    if task == "parity":
        install("requirements-parity.txt")
    # one thread: models this small are slower, and on a busy machine much slower, on several
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    if task != "lab":
        env["MPLBACKEND"] = "Agg"
    for i, command in enumerate(TASKS[task]):
        more = words if i == len(TASKS[task]) - 1 else ()
        code = subprocess.call([PYTHON, *command, *more], cwd=ROOT, env=env)
        if code:
            return code
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"The installation failed (see above); mend it and run the same command again. [{error.returncode}]")
    except KeyboardInterrupt:
        sys.exit(130)
