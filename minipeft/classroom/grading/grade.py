"""Grading a class: each exercise of each student in a child process; points, a table, JUnit, a page for each student.

A group of observations that all agree is worth a point. Each result is written down at once, so a run that was
interrupted goes on where it stopped, and a second run looks only at what is new.
"""

import csv
import hashlib
import html
import json
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tqdm.auto import tqdm

from minipeft.classroom.engine import check, source
from minipeft.classroom.engine.diagnose import judge
from minipeft.classroom.engine.exercise import exercises, get_exercise
from minipeft.classroom.engine.observe import work_in
from minipeft.classroom.engine.recognise import expected
from minipeft.classroom.grading.sandbox import Child, Limits, Stopped

LARGEST = 1_000_000  # characters of a submission
STARTING = threading.Lock()


@dataclass
class Result:
    """One exercise of one student. groups: {name: right or not}; text: the diagnosis; output: what the code printed."""

    student: str
    exercise: str
    key: str
    groups: dict[str, bool]
    text: str
    output: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def points(self):
        return sum(self.groups.values())


def collect(folder, names=None):
    """({student: {exercise: path}}, files that belong to no exercise).

    A student is a folder, or a single .py or .ipynb file. A file belongs to the exercise that it is named after, that
    its first line tells, or that it calls `check` for. Links that lead out of the folder are not followed.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ValueError(f"{folder} is not a folder; give the one that holds a folder or a file for each student")
    found, strange = {}, []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith((".", "__")) or not (entry.is_dir() or entry.suffix in (".py", ".ipynb")):
            continue
        mine = found.setdefault(entry.name if entry.is_dir() else entry.stem, {})
        for path in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
            hidden = any(part.startswith((".", "__")) for part in path.relative_to(root).parts)
            if path.suffix not in (".py", ".ipynb") or hidden or not path.is_file():
                continue
            about = exercises_in(path) if path.resolve().is_relative_to(root) else []
            about = [name for name in about if names is None or name in names]
            if not about:
                strange.append(path)
            for name in about:
                mine.setdefault(name, path)
    if not found:
        raise ValueError(f"there is no submission in {folder}: no folder, no .py and no .ipynb file")
    return found, strange


def exercises_in(path):
    try:
        text = readable(path)
    except source.Unreadable:
        return [path.stem] if path.stem in exercises() else []
    return check.exercises_named(path, text)


def readable(path):
    if path.stat().st_size > 20 * LARGEST:
        raise source.Unreadable(f"{path.name} is too large: {path.stat().st_size:,} bytes")
    text = source.text_of(path)
    if len(text) > LARGEST:
        raise source.Unreadable(f"{path.name} is too large: {len(text):,} characters of Python")
    return text


def grade_one(student, name, path, seed, limits):
    """The result of one exercise. Whatever the code does, there is one."""
    exercise = get_exercise(name)
    none = dict.fromkeys(exercise.groups, False)
    key, output = key_of(name, path, seed, limits), ""
    try:
        text = readable(path)
        child = Child(name, text, seed, limits, "forkserver")
        with STARTING:
            child.__enter__()
        try:
            report = judge(work_in(exercise, text, seed), child)
        finally:
            child.__exit__()
            output = child.output
        groups, said = none if report.problem else report.groups(), report.text()
    except (Stopped, source.Unreadable) as problem:
        groups, said = none, f"{name}: {problem}"
    except (RecursionError, MemoryError, TypeError, ValueError, OSError) as error:
        groups, said = none, f"{name}: this could not be read or looked at ({type(error).__name__})"
    return Result(student, name, key, groups, clean(said), clean(output))


def clean(text):
    """Text of a student without control characters."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")[:6000]


def key_of(name, path, seed, limits):
    """What a result depends on: the submission, the exercise, the variants, the limits."""
    exercise = get_exercise(name)
    parts = [
        path.read_bytes(),
        exercise.reference(seed),
        *(path.read_bytes() for path in sorted(exercise.folder.glob("*.*"))),
    ]
    parts += [f"{seed} {limits}"]
    return hashlib.sha256(b"\0".join(p if isinstance(p, bytes) else p.encode() for p in parts)).hexdigest()[:32]


def grade(folder, out, feedback=None, junit=None, names=None, seed=None, limits=None, workers=1, again=False):
    """Grade every submission in a folder; see the module.

    Args:
        out: the table, CSV. Beside it `.jsonl` keeps single results, to go on from.
        feedback: a folder for one HTML page per student. junit: a file for JUnit XML.
        names: the exercises that count; by default all that anybody handed in.
        seed: of the variants. again: forget earlier results.

    Returns ([Result], files that belong to no exercise). Raises ValueError if there is nothing to grade.
    """
    out, limits = Path(out), limits or Limits()
    students, strange = collect(folder, names)
    handed_in = {name for mine in students.values() for name in mine}
    names = [name for name in exercises() if name in (handed_in if names is None else names)]
    if not names:
        raise ValueError(f"no file in {folder} belongs to an exercise; name them after one: {', '.join(exercises())}")
    out.parent.mkdir(parents=True, exist_ok=True)
    journal = out.with_suffix(".jsonl")
    if again:
        journal.unlink(missing_ok=True)
    known = remembered(journal)
    results, todo = [], []
    for student, mine in students.items():
        for name in names:
            if name not in mine:
                results.append(
                    Result(student, name, "", dict.fromkeys(get_exercise(name).groups, False), f"{name}: not handed in")
                )
            elif old := known.get((student, name, key_of(name, mine[name], seed, limits))):
                results.append(old)
            else:
                todo.append((student, name, mine[name]))
    for name in names:
        expected(get_exercise(name), seed)  # before there are threads
    with ThreadPoolExecutor(workers) as pool, journal.open("a", encoding="utf-8") as book:
        running = [pool.submit(grade_one, *job, seed, limits) for job in todo]
        try:
            for done in tqdm(as_completed(running), total=len(running), desc="grading", disable=not running):
                results.append(done.result())
                book.write(json.dumps(asdict(results[-1])) + "\n")
                book.flush()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    order = {(s, n): i for i, (s, n) in enumerate((s, n) for s in students for n in names)}
    results.sort(key=lambda r: order[r.student, r.exercise])
    write_table(results, names, out)
    if junit:
        write_junit(results, Path(junit))
    if feedback:
        write_feedback(results, Path(feedback))
    return results, strange


def remembered(journal):
    found = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            try:
                result = Result(**json.loads(line))
            except (ValueError, TypeError):  # the last line of a run that was interrupted
                continue
            found[result.student, result.exercise, result.key] = result
    return found


def by_student(results):
    found = {}
    for result in results:
        found.setdefault(result.student, []).append(result)
    return found


def write_table(results, names, path):
    """One line for each student: points of each exercise, their sum, what can be had, and the first line that helps."""
    full = {name: len(get_exercise(name).groups) for name in names}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ["student", *(f"{name} (of {full[name]})" for name in names), "points", f"of {sum(full.values())}"]
        )
        for student, mine in by_student(results).items():
            points = [r.points for r in mine]
            share = f"{100 * sum(points) / sum(full.values()):.0f} %"
            table.writerow(["'" + student if student[:1] in "=+-@" else student, *points, sum(points), share])


def write_junit(results, path):
    """JUnit XML: a suite for each student, a case for each group of observations."""
    suites = ElementTree.Element("testsuites")
    for student, mine in by_student(results).items():
        groups = [(r, group, right) for r in mine for group, right in r.groups.items()]
        failed = sum(not right for *_, right in groups)
        suite = ElementTree.SubElement(suites, "testsuite", name=student, tests=str(len(groups)), failures=str(failed))
        for result, group, right in groups:
            case = ElementTree.SubElement(suite, "testcase", classname=f"{student}.{result.exercise}", name=group)
            if not right:
                ElementTree.SubElement(case, "failure", message=f"{result.exercise}: {group}").text = result.text
    ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{student}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
pre {{ background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 14px }}
li.right::marker {{ content: "✓  "; color: #087f5b }} li.wrong::marker {{ content: "✗  "; color: #b3261e }}
h2 {{ margin-top: 2rem; border-top: 1px solid #ccc; padding-top: 1rem }}
</style><h1>{student}</h1><p><b>{points} of {full} points</b></p>{body}</html>
"""


def write_feedback(results, folder):
    """One page for each student, whole in itself: points, which groups, the diagnosis, what the code printed."""
    folder.mkdir(parents=True, exist_ok=True)
    say = html.escape
    for student, mine in by_student(results).items():
        parts = []
        for r in mine:
            title = get_exercise(r.exercise).title
            parts.append(f"<h2>{say(title)}</h2><p>{r.points} of {len(r.groups)} points</p><ul>")
            parts += [f'<li class="{"right" if ok else "wrong"}">{say(g)}</li>' for g, ok in r.groups.items()]
            parts.append(f"</ul><pre>{say(r.text)}</pre>")
            if r.output.strip():
                parts.append(f"<details><summary>What your code printed</summary><pre>{say(r.output)}</pre></details>")
        page = PAGE.format(
            student=say(student),
            points=sum(r.points for r in mine),
            full=sum(len(r.groups) for r in mine),
            body="\n".join(parts),
        )
        (folder / f"{student}.html").write_text(page, encoding="utf-8")
