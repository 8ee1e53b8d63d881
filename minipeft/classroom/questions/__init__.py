"""Questions: five for each lesson, with the misconception behind each wrong answer, and code that refutes it.

quiz("10_lora")                     prints the questions of a lesson
quiz("10_lora", answers="bacda")    says which answers are right, and runs what refutes the others
deck()                              all questions as a deck of cards for Anki

Each lesson's questions are a file here, NN_name.toml: `[[questions]]` with ask, right, why (a sentence about the right
answer), wrong (a list of {answer, misconception}), code, and what it prints.
"""

import contextlib
import csv
import hashlib
import html
import io
import sys
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

import minipeft.classroom.diary as diary
from minipeft.arguments import got

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
LETTERS = "abcdefgh"
WIDTH = 96


@dataclass(frozen=True)
class Choice:
    """One of the answers to choose from. comment: why it is right, or which misconception it is the mark of."""

    letter: str
    answer: str
    is_right: bool
    comment: str


@dataclass(frozen=True)
class Question:
    """wrong: pairs (answer, misconception). code: a few lines of Python; prints: what they print. place: of the right
    answer among the choices, counted from 0."""

    ask: str
    right: str
    why: str
    wrong: tuple[tuple[str, str], ...]
    code: str
    prints: str
    place: int = 0

    @property
    def choices(self):
        """All answers, in an order that does not tell which is right and is the same every time."""
        mixed = sorted((answer for answer, _ in self.wrong), key=lambda text: mark(self.ask + text))
        mixed.insert(self.place, self.right)
        comments = dict(self.wrong) | {self.right: self.why}
        return [
            Choice(letter, text, text == self.right, comments[text])
            for letter, text in zip(LETTERS, mixed, strict=False)
        ]

    def run(self):
        """What the code prints now."""
        with contextlib.redirect_stdout(io.StringIO()) as printed, torch.random.fork_rng(devices=[]):
            exec(compile(self.code, "<question>", "exec"), {"__name__": "question"})
        return printed.getvalue()


def mark(text):
    return hashlib.sha256(text.encode()).hexdigest()


def lessons():
    """The lessons that have questions, in their order: ["01_transformer", ...]."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@cache
def questions_of(lesson):
    """The questions of a lesson. Raises ValueError, with the lessons that have some, for another name."""
    if lesson not in lessons():
        raise ValueError(f"there are no questions for {got(lesson)}; there are for: {', '.join(lessons())}")
    data = tomllib.loads((FOLDER / f"{lesson}.toml").read_text(encoding="utf-8"))["questions"]
    return [
        Question(
            **{key: q[key].strip() for key in ("ask", "right", "why")},
            **{key: q[key].strip() + "\n" for key in ("code", "prints")},
            wrong=tuple((w["answer"].strip(), w["misconception"].strip()) for w in q["wrong"]),
            place=place,
        )
        for q, place in zip(data, places(lesson, len(data)), strict=True)
    ]


def places(lesson, count):
    """Where the right answers of a lesson stand: every place once among the first four, in an order of its own."""
    order = sorted(range(4), key=lambda place: mark(f"{lesson} {place}"))
    return [order[i % 4] if i < 4 else int(mark(lesson), 16) % 4 for i in range(count)]


def quiz(lesson, answers=""):
    """Ask the questions of a lesson, or judge the answers to them; what is answered is noted in `work`.

    answers: a letter for each question, "bacda"; "-" leaves one open, and so does an end that comes early.

    Raises ValueError for a lesson without questions, too many answers, or a letter that is none of the choices.
    """
    questions = questions_of(lesson)
    letters = read(answers, questions)
    right = 0
    for number, (question, letter) in enumerate(zip(questions, letters, strict=True), 1):
        choice = next((c for c in question.choices if c.letter == letter), None)
        right += bool(choice and choice.is_right)
        print(judged(number, question, choice) if choice else asked(number, question), end="\n\n")
    if not answers.strip("- "):
        example = "".join(LETTERS[i % 4] for i in range(len(questions)))
        print(f"To answer, write a letter for each question and run the cell again: answers={example!r}, for instance.")
        return
    print(f"{right} of {len(questions)} right.")
    diary.note(diary.nearest(), "questions", **{lesson: "".join(letters)})


def read(answers, questions):
    """The letters of the answers, "-" where there is none."""
    if not isinstance(answers, str):
        raise ValueError(f'answers are a text with a letter for each question, such as "bacda", got {got(answers)}')
    letters = answers.replace(" ", "").lower()
    if len(letters) > len(questions):
        raise ValueError(f"there are {len(questions)} questions, and {len(letters)} answers in {answers!r}")
    for number, (question, letter) in enumerate(zip(questions, letters, strict=False), 1):
        known = [c.letter for c in question.choices]
        if letter not in (*known, "-"):
            raise ValueError(
                f"question {number} has the answers {', '.join(known)}, and - leaves it open; got {letter!r}"
            )
    return letters.ljust(len(questions), "-")


def asked(number, question):
    lines = [filled(f"{number}. {question.ask}", "   ")]
    return "\n".join([*lines, *(filled(f"   {c.letter}  {c.answer}", "      ") for c in question.choices)])


def judged(number, question, choice):
    lines = [filled(f"{number}. {question.ask}", "   "), filled(f"   {choice.letter}  {choice.answer}", "      ")]
    return "\n".join([*lines, comment(question, choice)])


def comment(question, choice):
    """What is said to an answer; a wrong one is refuted by running the question's code."""
    said = filled(f"   {'Right.' if choice.is_right else 'Not quite.'} {choice.comment}", "   ")
    if choice.is_right:
        return said
    code, printed = textwrap.indent(question.code, "      > "), textwrap.indent(question.run(), "      ")
    return f"{said}\n   Running this shows it:\n{code}\n{printed}".rstrip()


def filled(text, indent):
    return textwrap.fill(text, WIDTH, subsequent_indent=indent)


def score(lesson, letters):
    """How many of these answers, as `quiz` has noted them, are right."""
    pairs = zip(questions_of(lesson), letters, strict=False)
    return sum(any(c.is_right and c.letter == letter for c in question.choices) for question, letter in pairs)


def deck():
    """All questions as a text that Anki imports: the question and its answers in front, what is right behind.

    Columns: front, back, tag. Its first lines tell Anki so (File, Import).
    """
    file = io.StringIO()
    file.write("#separator:tab\n#html:true\n#tags column:3\n#deck:minipeft\n")
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    for lesson in lessons():
        for q in questions_of(lesson):
            answers = "".join(f"<br>{c.letter}) {html.escape(c.answer)}" for c in q.choices)
            letter = next(c.letter for c in q.choices if c.is_right)
            others = "".join(f"<br><br>Not {c.letter}: {html.escape(c.comment)}" for c in q.choices if not c.is_right)
            back = f"{letter}) {html.escape(q.right)}<br><br>{html.escape(q.why)}{others}"
            writer.writerow([f"{html.escape(q.ask)}<br>{answers}", back, f"minipeft::{lesson}"])
    return file.getvalue()
