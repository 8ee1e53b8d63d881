"""Makes assignments for nbgrader and for otter-grader from an exercise.

python graders/make.py lora                      all that the exercise asks for
python graders/make.py lora LoRALinear           one class of it
python graders/make.py lora --variant autumn       under a teacher's own rules

Text, signatures and solutions are cut from the method's file, the tests ask minipeft's own check; so nothing here can
differ from the course. Make the assignment again when minipeft has changed.
"""

import argparse
import ast
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minipeft.classroom.engine import reading
from minipeft.classroom.engine.compare import differing
from minipeft.classroom.engine.exercise import exercises, get_exercise
from minipeft.classroom.engine.observe import Subject, observe
from minipeft.classroom.engine.recognise import broken, expected

HERE = Path(__file__).resolve().parent
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
POINT = '""" # BEGIN TEST CONFIG\npoints: 1\n""" # END TEST CONFIG\n'  # of a test cell, for otter
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


@dataclass(frozen=True)
class Task:
    """One class or function to write: its source with the solution marked, and a test for each group, a point each."""

    name: str
    text: str
    code: str
    tests: dict[str, str]


# -- what every grader gets -------------------------------------------------------------------------------------------


def tasks(exercise, only=(), seed=None):
    """The tasks of an exercise, or only those with these names. ValueError for what a notebook cannot ask."""
    there = list(dict.fromkeys(stub.partition(".")[0] for stub in exercise.stubs))
    if strange := [name for name in only if name not in there]:
        raise ValueError(f"{exercise.name} asks for {', '.join(there)}; got {', '.join(strange)}")
    tree = ast.parse(exercise.reference(seed))
    for name in only or there:
        if isinstance(reading.functions(tree)[name][1], ast.Assign | ast.AnnAssign):
            raise ValueError(f"{name} is a constant, which graders cannot be handed; name the classes and functions")
    return [task(exercise, name, seed) for name in ordered(tree, only or there)]


def ordered(tree, names):
    """What another one uses comes before it: a notebook's tests run where they stand."""
    left, done = list(names), []
    while left:
        ready = [name for name in left if not used(tree, name) & set(left) - {name}]
        done.append((ready or left)[0])
        left.remove(done[-1])
    return done


def used(tree, name):
    (node,) = (n for n in tree.body if name in reading.names_of(n))
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def task(exercise, name, seed=None):
    bodies = [stub.partition(".")[2] for stub in exercise.stubs if stub.partition(".")[0] == name]
    what = ", ".join(f"`{body}`" for body in bodies if body)
    told = f"## `{name}`\n\nWrite {what or 'its body'}, run the cell, then the tests below it."
    rule = f"variant={json.dumps(seed)}, " if exercise.chosen(seed) else ""
    tests = {
        group: f"from minipeft.classroom import expect  # {group}\n\n"
        f'expect("{exercise.name}", {name}, {rule}group="{group}")'
        for group in points(exercise, name)
    }
    return Task(name, told, marked(exercise, name, seed), tests)


@cache
def points(exercise, name):
    """The groups of observations that a class or function is judged by.

    Those in which a known mistake that lies in it, and nowhere else, shows first; else where it shows that it is empty.
    """
    text, right = exercise.plain(), expected(exercise)
    group = {o.name: o.group for o in exercise.observations}
    found = set()
    for mistake in exercise.mistakes:
        if changed(text, exercise.with_edits(mistake.diffs[0])) == [name]:
            got = observe(exercise, broken(exercise, mistake))
            found.add(group[differing(right, got)[0]])
    if not found:
        left = [stub for stub in exercise.stubs if stub.partition(".")[0] != name]
        got = Subject(exercise, text).observe(left, False)
        found.add(group[differing(right, got)[0]])
    return [g for g in exercise.groups if g in found]


def changed(text, other):
    """Names of the classes and functions that are not the same in two texts."""
    (a, b) = ({n.name: ast.dump(n) for n in ast.parse(t).body if hasattr(n, "name")} for t in (text, other))
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]


def marked(exercise, name, seed=None):
    """The source of a class or function, its solutions between marks; bodies that would tell are left out."""
    text = exercise.reference(seed)
    lines, found = text.splitlines(), reading.functions(ast.parse(text))
    whole = found[name][1]
    after = len(lines) - whole.end_lineno
    inside = [h for h in (*exercise.stubs, *exercise.hidden) if h.partition(".")[0] == name]
    for stub in sorted(inside, key=lambda h: -found[h][1].lineno):
        node = found[stub][1]
        first, last, indent = reading.statements(node)[0].lineno, node.end_lineno, " " * node.body[0].col_offset
        if stub in exercise.hidden:
            lines[top(node) - 1 : last] = []
        else:
            lines[first - 1 : last] = [indent + BEGIN, *lines[first - 1 : last], indent + END]
    return "\n".join(lines[top(whole) - 1 : len(lines) - after])


def top(node):
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def opening(exercise, wanted, seed=None):
    """The first text and the first code: what it is about; the reference's imports, and what the tasks use of it."""
    text = exercise.reference(seed)
    tree = ast.parse(text)
    told = [f"# {exercise.title}", exercise.why, f"About {exercise.minutes} minutes. To read: {exercise.read}."]
    told += [f"**A rule of your teacher's, unlike the paper's:** {variant.rule}." for variant in exercise.chosen(seed)]
    told += [f"```text\n{ast.get_docstring(tree)}\n```"]
    told += ["Each test is worth a point. One that fails says what is wrong and which mistake it looks like."]
    imports = [ast.unparse(n) for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {name for node in tree.body for name in reading.names_of(node)} - set(wanted)
    if ours := names & set().union(*(used(tree, name) for name in wanted)):
        home = "minipeft." + exercise.reference_file.removesuffix(".py").replace("/", ".")
        imports.append(f"from {home} import {', '.join(sorted(ours))}")
    return "\n\n".join(told), "\n".join(dict.fromkeys([*imports, "import torch"]))


# -- nbgrader ---------------------------------------------------------------------------------------------------------


def for_nbgrader(exercise, todo, seed=None):
    """The source notebook of an nbgrader assignment."""
    told, imports = opening(exercise, [t.name for t in todo], seed)
    cells = [cell("markdown", told), cell("code", imports, **role("setup", locked=True))]
    for t in todo:
        cells += [cell("markdown", t.text), cell("code", t.code, **role(t.name, solution=True))]
        for group, code in t.tests.items():
            name = f"{t.name}-{group.replace(' ', '-')}"
            cells.append(cell("code", code, **role(name, locked=True, grade=True, points=1)))
    return notebook(cells)


def role(name, **what):
    return {"nbgrader": {"grade": False, "locked": False, "solution": False, "task": False}
            | {"grade_id": name, "schema_version": 3} | what}  # fmt: skip


# -- otter-grader -----------------------------------------------------------------------------------------------------


def for_otter(exercise, todo, seed=None):
    """The master notebook for `otter assign`."""
    told, imports = opening(exercise, [t.name for t in todo], seed)
    head = "# ASSIGNMENT CONFIG\nexport_cell: false\nsolutions_pdf: false\nsave_environment: false"
    cells = [cell("raw", head), cell("markdown", told), cell("code", imports)]
    for t in todo:
        cells += [cell("raw", f"# BEGIN QUESTION\nname: {t.name}"), cell("markdown", t.text)]
        cells += [cell("raw", "# BEGIN SOLUTION"), cell("code", prompted(t.code)), cell("raw", "# END SOLUTION")]
        cells.append(cell("raw", "# BEGIN TESTS"))
        cells += [cell("code", POINT + code) for code in t.tests.values()]
        cells += [cell("raw", "# END TESTS"), cell("raw", "# END QUESTION")]
    return notebook(cells)


def prompted(code):
    """The marks that otter knows; and its student sees nbgrader's stub, for of otter's own, `...`, nothing is told."""
    stub = ['""" # BEGIN PROMPT', "# YOUR CODE HERE", "raise NotImplementedError()", '""" # END PROMPT']
    instead = {BEGIN: ["# BEGIN SOLUTION NO PROMPT"], END: ["# END SOLUTION", *stub]}
    lines = []
    for line in code.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += [indent + new for new in instead[line.strip()]] if line.strip() in instead else [line]
    return "\n".join(lines)


# -- notebooks --------------------------------------------------------------------------------------------------------


def cell(kind, text, **metadata):
    made = {"cell_type": kind, "metadata": metadata, "source": text}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def notebook(cells):
    cells = [{"id": f"c{i:02d}"} | c for i, c in enumerate(cells)]
    return {"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}


def write(nb, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("exercise", choices=exercises())
    words.add_argument("only", nargs="*", help="classes and functions; else all")
    words.add_argument("--variant", help="a teacher's seed")
    words.add_argument("--nbgrader", type=Path, default=HERE / "nbgrader", help="the folder of the nbgrader course")
    words.add_argument("--otter", type=Path, default=HERE / "otter", help="the folder for otter's notebook")
    given = words.parse_args()
    exercise = get_exercise(given.exercise)
    try:
        todo = tasks(exercise, given.only, given.variant)
    except ValueError as error:
        words.error(str(error))
    for nb, path in (
        (for_nbgrader(exercise, todo, given.variant), given.nbgrader / "source" / exercise.name),
        (for_otter(exercise, todo, given.variant), given.otter),
    ):
        write(nb, path / f"{exercise.name}.ipynb")
        print(path / f"{exercise.name}.ipynb")
    for t in todo:
        print(f"  {t.name}, a point each: {', '.join(t.tests)}")


if __name__ == "__main__":
    main()
