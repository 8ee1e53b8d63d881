"""Grading a class: each exercise of each student in a child process, the results in a journal, tables and pages.

A group of observations that all agree is worth a point. What is done is on the disk: the journal line by line, table
and page student by student. An interrupted run goes on where it stopped; a second run looks only at what is new.

With an executor (see `lab.executors`) the child processes are started on its machines. What travels there is the text
of one file and the name of its exercise, without the student's; what returns is the result. The folder of submissions,
the journal and the table are read and written here alone.
"""

import hashlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

from tqdm.auto import tqdm

from minipeft.classroom.engine.exercise import exercises, get_exercise
from minipeft.classroom.engine.recognise import expected
from minipeft.classroom.grading import reports
from minipeft.classroom.grading.book import Book
from minipeft.classroom.grading.confine import strength
from minipeft.classroom.grading.course import Course
from minipeft.classroom.grading.journal import GRADED, MISSING, REFUSED, SKIPPED, Journal, Result, is_journal
from minipeft.classroom.grading.look import look, look_elsewhere, without_points
from minipeft.classroom.grading.sandbox import Limits
from minipeft.classroom.grading.submissions import collect, readable
from minipeft.lab.executors import Unfit

KILLED = "the grader itself was killed while it looked at this file, so it is left out until --retry asks for it"


def grade(
    folder, places, names=None, course=None, limits=None, workers=1, again=False, retry=False, force=False,
    executor=None,
):  # fmt: skip
    """Grade every submission in a folder and write what `places` asks for; see the module.

    Args:
        names: the exercises that count; by default all that anybody handed in.
        again: forget earlier results. retry: look, one at a time, at what killed the grader.
        force: overwrite also what minipeft did not write.
        executor: where students' code runs; None for this machine. workers: how many jobs it has at a time.

    Returns the Book. Raises ValueError, before anything is graded, if there is nothing to grade or a setting is wrong;
    Unfit if a machine of the executor would run a student's code with fewer bars around it than this one.
    """
    course, limits = course or Course(), limits or Limits()
    refuse(limits, workers)
    handed_in = collect(folder, names)
    names = counting(handed_in, names, folder)
    places.refuse(folder, force)
    book = Book({student: mine.flags for student, mine in handed_in.items()}, names, course, places.key)
    places.refuse_pages(book, force)
    if again or (places.journal.exists() and not is_journal(places.journal)):
        places.journal.unlink(missing_ok=True)
    journal = Journal(places.journal)
    for name in names:
        expected(get_exercise(name), course.variant)  # before there are threads
    journal.write({"class": book.students, "exercises": names, "variant": course.variant})

    todo, alone = [], []
    for student, mine in handed_in.items():
        for name in names:
            result, job = known(student, name, mine, journal, course.variant, limits, retry)
            if result:
                journal.add(result)
                book.add(result)
            else:
                (alone if journal.suspected(student, name, job[3]) else todo).append(job)
    reports.write(book, places)

    def note(result):
        journal.add(result)
        book.add(result)
        if book.complete(result.student):
            reports.write_one(book, places, result.student)

    work_through(todo, alone, journal, note, course.variant, limits, workers, executor)
    reports.write(book, places)
    return book


def refuse(limits, workers):
    """Raises ValueError for limits under which a class could not be graded."""
    for name, value, least, most in (
        ("seconds", limits.seconds, 1, 600),
        ("memory", limits.memory, 100, 100_000),
        ("workers", workers, 1, 256),
    ):
        if not math.isfinite(value) or not least <= value <= most:
            raise ValueError(f"--{name} is a number from {least} to {most:,}, got {value}")


def counting(handed_in, names, folder):
    """The exercises that count, in the order of the course."""
    found = {name for mine in handed_in.values() for name in (*mine.files, *mine.refused)}
    names = [name for name in exercises() if name in (found if names is None else names)]
    if not names:
        raise ValueError(f"no file in {folder} belongs to an exercise; name them after one: {', '.join(exercises())}")
    return names


def known(student, name, mine, journal, seed, limits, retry):
    """(a Result that needs no grading, None), or (None, the job that finds it)."""

    def without(state, why, key="", flags=()):
        groups = dict.fromkeys(get_exercise(name).groups, False)
        return Result(student, name, key, groups, [f"{name}: {why}"], state=state, flags=list(flags)), None

    if mine.problem or name in mine.refused:
        return without(REFUSED, mine.problem or mine.refused[name])
    if name not in mine.files:
        return without(MISSING, "not handed in")
    path = mine.files[name]
    try:
        key, when = key_of(name, path, seed, limits), path.stat().st_mtime
    except OSError as error:
        return without(REFUSED, f"{path.name} cannot be read ({error.strerror})", flags=["the file cannot be read"])
    if journal.suspected(student, name, key) and not retry:
        return without(SKIPPED, KILLED, key, [KILLED])
    old = journal.known.get((student, name, key))
    if old and old.state == GRADED:
        return replace(old, handed_in=min(old.handed_in or when, when)), None
    return None, (student, name, path, key, when)


def work_through(todo, alone, journal, note, seed, limits, workers, executor=None):
    """Grade these jobs, several at a time, then those `alone` one by one. note: is given each Result, before the same
    worker begins anything else, so that whatever kills the grader next finds it on the disk."""
    begun, writing = {}, threading.Lock()

    def work(job):
        student, name, path, key, when = job
        begun[student, name, key] = True
        journal.write({"began": [student, name, key]})
        result = grade_one(student, name, path, seed, limits, key, when, executor)
        with writing:
            note(result)
            del begun[student, name, key]

    bar = tqdm(total=len(todo) + len(alone), desc="grading", disable=not todo + alone)
    pool = ThreadPoolExecutor(workers)
    running = [pool.submit(work, job) for job in todo]
    try:
        for done in as_completed(running):
            done.result()
            bar.update()
        for job in alone:
            work(job)
            bar.update()
    finally:
        try:
            pool.shutdown(cancel_futures=True)  # what has begun is finished
        finally:  # the teacher is in a hurry: nobody is to be blamed for what was not finished
            bar.close()
            for job in list(begun):
                journal.write({"left": list(job)})


def grade_one(student, name, path, seed, limits, key, when, executor=None):
    """The result of one exercise. Whatever the code does, there is one, unless the executor's machine is Unfit."""
    try:
        text = readable(path)
        if executor is None:
            result = look(name, text, seed, limits)
        else:
            result = executor.submit(look_elsewhere, strength(), name, text, seed, limits).result()
    except Unfit:
        raise
    except Exception as problem:  # whatever it is, the others are graded
        result = without_points(name, problem)
    return replace(result, student=student, key=key, handed_in=when)


def key_of(name, path, seed, limits):
    """What a result depends on: the submission, the exercise, the variants, the limits."""
    exercise = get_exercise(name)
    rules = [file.read_bytes() for file in sorted(exercise.folder.glob("*.*"))]
    parts = [path.read_bytes(), exercise.reference(seed).encode(), *rules, f"{seed} {limits}".encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
