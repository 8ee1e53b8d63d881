"""The commands of the classroom: python -m minipeft start | check | interview | grade | grades."""

import io
import os
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

import minipeft.classroom.desk as desk
import minipeft.classroom.diary as diary
import minipeft.classroom.questions as questions
from minipeft.classroom.engine.exercise import exercises, get_exercise
from minipeft.classroom.engine.report import LEVELS
from minipeft.classroom.grading import grade as grading
from minipeft.classroom.grading import reports
from minipeft.classroom.grading.book import book_of
from minipeft.classroom.grading.course import Course, read_course
from minipeft.classroom.grading.pages import amount, likeness
from minipeft.classroom.grading.reports import Places
from minipeft.classroom.grading.sandbox import Limits
from minipeft.files import SIGNED, place, write_atomically
from minipeft.lab.executors import executor_from

console = Console(emoji=False)

Variant = Annotated[
    str | None,
    typer.Option("--variant", help="A teacher's seed: rules of its own, so that a public solution is wrong."),
]
Folder = Annotated[Path, typer.Option("--dir", help="The folder of your files.")]


def start(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="An exercise; without it they are listed.")] = None,
    folder: Folder = desk.FOLDER,
    variant: Variant = None,
):
    """Begin an exercise: write its file with the bodies empty. Without a name: the exercises, and how far you are."""
    if name is None:
        console.print(contents(folder))
        console.print(questions_so_far(folder))
        return
    path, exercise = desk.start(name, folder, variant), get_exercise(name)
    console.print(
        f"[bold]{escape(exercise.title)}[/bold] (about {exercise.minutes} minutes, {LEVELS[exercise.difficulty]})"
    )
    console.print(escape(exercise.why))
    for rule in exercise.chosen(variant):
        console.print(f"[bold]A rule of your teacher's:[/bold] {escape(rule.rule)}")
    console.print(f"To read: {escape(exercise.read)}")
    console.print(f"\nWrite in {escape(str(path))}: {', '.join(exercise.stubs)}")
    console.print(f"Then:     python -m minipeft check {escape(str(path))}", soft_wrap=True)


def contents(folder):
    """The exercises in the order of the course, and the student's progress."""
    table = Table(
        title="Exercises, in the order of the course", title_justify="left", box=SIMPLE, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    rows = [(name, get_exercise(name), state) for name, state in desk.progress(folder).items()]
    widths = {"name": max(len(name) for name, *_ in rows), "exercise": 0, "min": 3, "level": 7, "points": 10}
    widths["yours"] = max(len("yours"), *(len(state.words) for *_, state in rows))
    titles = {name: x.title.partition(": ")[2] or x.title for name, x, _ in rows}  # its beginning is in the name
    longest = max(map(len, titles.values()))  # where there is little room, titles are cut
    widths["exercise"] = min(longest, max(15, console.width - sum(widths.values()) - 2 * len(widths)))
    for heading, width in widths.items():
        justify = "right" if heading == "min" else "left"
        table.add_column(heading, justify=justify, width=width, no_wrap=True, overflow="ellipsis")
    for name, x, state in rows:
        style = "green" if state.words == "right" else "bold" if state.words else ""
        bar = ProgressBar(1.0, state.share, width=10) if state.words else ""
        table.add_row(name, escape(titles[name]), str(x.minutes), LEVELS[x.difficulty], bar, state.words, style=style)
    table.caption, table.caption_justify = "Begin one: python -m minipeft start NAME", "left"
    return table


def questions_so_far(folder):
    """One line: how many questions were answered right, in all and in each lesson that was begun."""
    every = sum(len(questions.questions_of(lesson)) for lesson in questions.lessons())
    noted = {name: letters for name, letters in diary.answers(folder).items() if name in questions.lessons()}
    scores = {lesson: questions.score(lesson, letters) for lesson, letters in noted.items()}
    begun = "".join(f", {lesson} {n} of {len(questions.questions_of(lesson))}" for lesson, n in scores.items())
    return f"Questions answered right: {sum(scores.values())} of {every}{begun}\nAsk some: python -m minipeft interview"


def interview(
    lesson: Annotated[
        str | None, typer.Argument(metavar="LESSON", help="Its number, 10 for instance; without it all are asked.")
    ] = None,
    anki: Annotated[
        Path | None, typer.Option(help="Ask nothing, but write all questions to this file as a deck for Anki.")
    ] = None,
    folder: Folder = desk.FOLDER,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a deck that is there.")] = False,
):
    """Questions about the lessons, as in an interview. A wrong answer is refuted by running a few lines of code."""
    if anki:
        if anki.exists() and not force:
            raise ValueError(f"{anki} is there already: choose another name, or overwrite it with --force")
        write_atomically(anki, questions.deck().encode())
        console.print(f"{escape(str(anki))}: in Anki, choose File and Import.")
        return
    wanted = [name for name in questions.lessons() if lesson is None or name.startswith(lesson)]
    if not wanted:
        raise ValueError(f"there are no questions for {lesson!r}; there are for: {', '.join(questions.lessons())}")
    for name in wanted:
        asked = questions.questions_of(name)
        letters = list(diary.answers(folder).get(name, "")[: len(asked)].ljust(len(asked), "-"))
        for i, question in enumerate(asked):
            if letters[i] != "-" and lesson is None:
                continue
            console.print("\n" + questions.asked(i + 1, question), markup=False, highlight=False)
            choice = chosen(question)
            if choice is None:
                return
            console.print(questions.comment(question, choice), markup=False, highlight=False)
            letters[i] = choice.letter
            diary.note(folder, "questions", **{name: "".join(letters)})
    console.print(questions_so_far(folder))


def chosen(question):
    """The choice that is typed in; None to stop."""
    choices = {choice.letter: choice for choice in question.choices}
    letter = ""
    while letter not in (*choices, "q"):
        letter = typer.prompt(f"{', '.join(choices)}, or q to stop").strip().lower()
    return choices.get(letter)


def check(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Your file or notebook, or the name of an exercise.")],
    body: Annotated[
        str | None, typer.Argument(metavar="BODY", help="Only this one, LoRALinear.forward for example.")
    ] = None,
    exercise: Annotated[str | None, typer.Option(help="Which exercise it is, if the file does not tell.")] = None,
    variant: Variant = None,
    hints: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4,
            help="How much to tell: 1 the symptom, 2 a question, 3 the mistake, 4 all. Else more at each check.",
        ),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw expected, yours and the difference, as PNG.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite also a picture that minipeft did not draw.")
    ] = False,
):
    """Check a file: is it right, and if not, which mistake does it look like? Ends with 1 if it is not right."""
    if not path.suffix and not path.exists() and path.name in exercises():
        path = desk.FOLDER / f"{path.name}.py"
    if picture:
        place(picture, "picture", force, inputs=(path,))
    report = desk.check_file(path, exercise, variant, only=body)
    told = desk.hints_for(path, report, hints)
    console.print(report.text(told), markup=False, highlight=False, soft_wrap=True)
    if report.finding and told < 4:
        console.print(f"(hint {told} of 4: check again for the next one, or --hints 4 for all)", highlight=False)
    if picture and report.finding and report.finding.pair:
        from minipeft import plots

        pair = (np.array(v["data"]).reshape(v["shape"]) for v in report.finding.pair)
        file = io.BytesIO()
        plots.differences(*pair)[0].figure.savefig(file, format="png", dpi=120, metadata=SIGNED)
        write_atomically(picture, file.getvalue())
        console.print(f"Picture: {escape(str(picture))}")
    elif picture:
        console.print("There is nothing to draw.")
    if report.passed and body is None and not report.exercise.is_sheet and variant is None:
        console.print(
            f"Let the course run on it: MINIPEFT_USE={escape(str(path))} python -m minipeft compare", soft_wrap=True
        )
    raise SystemExit(0 if report.passed else 1)


Out = Annotated[Path, typer.Option(help="The table, CSV. Beside it: the page of the class, .html, and .jsonl.")]
Feedback = Annotated[Path | None, typer.Option(help="A folder for one page (HTML) per student.")]
JUnit = Annotated[Path | None, typer.Option(help="A file for JUnit XML.")]
CourseFile = Annotated[
    Path | None, typer.Option("--course", help="A file, TOML: deadlines, weights, overrides; see docs/teaching.md.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite also what minipeft did not write.")]


def grade(
    submissions: Annotated[Path, typer.Argument(help="A folder that holds a folder or a file for each student.")],
    out: Out = Path("grades.csv"),
    feedback: Feedback = None,
    junit: JUnit = None,
    course: CourseFile = None,
    exercises: Annotated[
        str | None, typer.Option(help="The exercises that count, separated by commas; by default all found.")
    ] = None,
    variant: Variant = None,
    seconds: Annotated[float, typer.Option(help="Time for one exercise of one student.")] = Limits.seconds,
    memory: Annotated[int, typer.Option(help="Megabytes for it, beyond Python and torch.")] = Limits.memory,
    workers: Annotated[int | None, typer.Option(help="How many at a time; by default one for each core.")] = None,
    executor: Annotated[
        str,
        typer.Option(help="Where students' code runs: processes (here), loky, or dask://HOST:PORT, a Dask cluster."),
    ] = "processes",
    again: Annotated[bool, typer.Option("--again", help="Grade all again, also what is known already.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Grade also, one at a time, what the grader was killed by.")
    ] = False,
    force: Force = False,
):
    """Grade a class: each exercise of each student in a process of its own. Interrupted, it goes on where it was."""
    names = [name.strip() for name in exercises.split(",")] if exercises else None
    for name in names or ():
        get_exercise(name)
    settings = read_course(course) if course else Course()
    if variant is not None:
        if settings.variant not in (None, variant):
            raise ValueError(f"{course} has the variant {settings.variant!r}, and --variant is {variant!r}")
        settings = settings.under(variant)
    began, places = time.monotonic(), Places(out, feedback, junit)
    with executor_from(executor, workers) as elsewhere:
        workers = elsewhere.workers if elsewhere else (os.cpu_count() or 1) if workers is None else workers
        book = grading.grade(
            submissions, places, names, settings, Limits(seconds, memory), workers, again, retry, force, elsewhere
        )
    tell(book, places, f"Points ({time.monotonic() - began:.0f} s)")


def grades(
    out: Annotated[Path, typer.Argument(metavar="TABLE", help="The table that `grade` wrote.")] = Path("grades.csv"),
    feedback: Feedback = None,
    junit: JUnit = None,
    gradescope: Annotated[
        Path | None, typer.Option(help="A folder for one file per student as Gradescope reads it, results.json.")
    ] = None,
    course: CourseFile = None,
    force: Force = False,
):
    """Compute the points of a graded class again, with other weights, deadlines or overrides. Nothing is graded."""
    places = Places(out, feedback, junit, gradescope)
    places.refuse(force=force)
    book = book_of(places.journal, read_course(course) if course else Course(), places.key)
    places.refuse_pages(book, force)
    reports.write(book, places)
    tell(book, places, "Points")


def tell(book, places, title):
    """Print the points of a class, and what its teacher should look at."""
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("student", *book.names, "sum"):
        table.add_column(heading, justify="left" if heading == "student" else "right", overflow="fold")
    rows = book.rows()
    for row in rows:
        cells = [amount(mark.points) if mark else "" for mark in row.marks.values()]
        table.add_row(escape(row.shown), *cells, amount(row.points))
    full = [amount(book.full(name)) for name in book.names]
    table.add_row("[dim]of[/dim]", *(f"[dim]{n}[/dim]" for n in full), f"[dim]{amount(book.of)}[/dim]")
    console.print(table)
    for row in rows:
        for flag in row.flags:
            console.print(f"[yellow]{escape(row.shown)}: {escape(flag)}[/yellow]", soft_wrap=True)
    for group in book.alike():
        console.print(f"[yellow]{escape(likeness(book, group))}[/yellow]", soft_wrap=True)
    if left := places.leftovers(book):
        names = ", ".join(path.name for path in left)
        console.print(f"[yellow]Left from an earlier run, and nobody's now: {escape(names)}[/yellow]", soft_wrap=True)
    said = {"Table": places.out, "The class": places.overview, "Pages": places.feedback}
    said |= {
        "JUnit": places.junit,
        "Gradescope": places.gradescope,
        "Key": places.key if book.course.anonymous else None,
    }
    for what, path in said.items():
        if path:
            console.print(f"{what}: {escape(str(path))}", soft_wrap=True)
