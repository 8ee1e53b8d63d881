"""Grades a small class with nbgrader or otter-grader, as a teacher would, and holds the marks.

python run.py graders                both, each in an environment of its own, which this makes
python run.py graders nbgrader       one of them
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import make

from minipeft.classroom.engine.exercise import get_exercise

EXERCISE = get_exercise("lora")
TASKS = make.tasks(EXERCISE)
FULL = sum(len(t.tests) for t in TASKS)
SECONDS = 15  # for a cell, so that the student who loops costs little here
(SCALE,) = (m.what for m in EXERCISE.mistakes if m.id == "scale on one side")  # what the grader should tell `scale`


# -- the class --------------------------------------------------------------------------------------------------------


def edit(find, replace):
    """The right solutions, with one edit in the first, LoRALinear."""
    codes = [t.code for t in TASKS]
    assert codes[0].count(find) == 1, find
    return [codes[0].replace(find, replace), *codes[1:]]


RIGHT = [t.code for t in TASKS]
CLASS = {  # student: solutions, or None for a notebook as it was handed out; do the tests stay? the marks
    "right": (RIGHT, True, 8),
    "scale": (edit("self.scale * self.B)", "self.B)"), True, 5),  # of LoRALinear's 5: set-up and start
    "loop": (edit("h = F.linear", "while True:\n            pass\n        h = F.linear"), True, 4),  # only set-up
    "empty": (None, True, 0),
    "tests": (None, False, 0),  # has put `pass` in place of every test
    "shadow": (["def expect(*given, **more):\n    pass"], True, 0),  # an `expect` of one's own, and nothing else
}


def submission(released, student, passed):
    """The notebook that a student hands in. passed: takes the tests out of a notebook."""
    nb = json.loads(released.read_text(encoding="utf-8"))
    codes, honest, _ = CLASS[student]
    open_cells = [c for c in nb["cells"] if "# YOUR CODE HERE" in "".join(c["source"])]
    assert len(open_cells) == len(TASKS)
    for c, code in zip(open_cells, codes or (), strict=False):
        c["source"] = code
    if not honest:
        passed(nb)
    return nb


def tell(student, got, most=FULL):
    print(f"  {student:<8} {got:.0f} of {most:.0f}", flush=True)
    return got == CLASS[student][2] and most == FULL


def run(*words, folder):
    begun = time.monotonic()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls `alembic`
    env = os.environ | {"PATH": path, "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, env=env, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(f"{' '.join(map(str, words))}: {time.monotonic() - begun:.0f} s", flush=True)


# -- the graders ------------------------------------------------------------------------------------------------------


def nbgrader(folder):
    shutil.copy(make.HERE / "nbgrader" / "nbgrader_config.py", folder)
    make.write(make.for_nbgrader(EXERCISE, TASKS), folder / "source" / "lora" / "lora.ipynb")
    run("nbgrader", "generate_assignment", "lora", "--create", folder=folder)

    def passed(nb):
        for c in nb["cells"]:
            if c["metadata"].get("nbgrader", {}).get("grade"):
                c["source"] = "pass"

    for student in CLASS:
        path = folder / "submitted" / student / "lora" / "lora.ipynb"
        make.write(submission(folder / "release" / "lora" / "lora.ipynb", student, passed), path)
    run("nbgrader", "autograde", "lora", "--create", f"--ExecutePreprocessor.timeout={SECONDS}", folder=folder)
    run("nbgrader", "generate_feedback", "lora", folder=folder)
    run("nbgrader", "export", folder=folder)
    with (folder / "grades.csv").open(encoding="utf-8") as file:
        marks = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in csv.DictReader(file)}
    page = (folder / "feedback" / "scale" / "lora" / "lora.html").read_text(encoding="utf-8")
    told = f"This looks like: {SCALE}" in page
    print(f"  the page of `scale` tells the mistake: {told}")
    return all([tell(student, *marks[student]) for student in CLASS]) and told


def otter(folder):
    make.write(make.for_otter(EXERCISE, TASKS), folder / "lora.ipynb")
    run("otter", "assign", "lora.ipynb", "dist", folder=folder)
    (archive,) = (folder / "dist" / "autograder").glob("*.zip")

    def passed(nb):
        for question in nb["metadata"]["otter"]["tests"].values():
            for suite in question["suites"]:
                suite["cases"] = [case | {"code": ">>> pass\n"} for case in suite["cases"]]

    good = []
    for student in CLASS:
        if student == "loop":  # outside Docker, otter would wait for ever
            continue
        path = folder / student / "lora.ipynb"
        make.write(submission(folder / "dist" / "student" / "lora.ipynb", student, passed), path)
        run("otter", "run", "lora.ipynb", "-a", str(archive), "-o", ".", folder=path.parent)
        tests = json.loads((path.parent / "results.json").read_text(encoding="utf-8"))["tests"]
        scored = [t for t in tests if "max_score" in t]
        good.append(tell(student, sum(t["score"] for t in scored), sum(t["max_score"] for t in scored)))
        if student == "scale":
            good.append(f"This looks like: {SCALE}" in json.dumps(tests))
            print(f"  its results tell the mistake: {good[-1]}")
    return all(good)


def main(which):
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        good = {"nbgrader": nbgrader, "otter": otter}[which](Path(folder))
    print(f"{which}: {'all marks as they should be' if good else 'MARKS DIFFER'}, {time.monotonic() - begun:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
