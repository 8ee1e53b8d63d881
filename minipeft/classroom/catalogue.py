"""The catalogue for teachers, docs/exercises.md, written from the exercises themselves:

python -m minipeft.classroom.catalogue > docs/exercises.md
"""

from minipeft.classroom.commands import LEVELS
from minipeft.classroom.engine.exercise import exercises

HEAD = """# The exercises

*Written by `python -m minipeft.classroom.catalogue`; change the bank, not this page.
How to teach with them: [teaching.md](teaching.md).*

A point is a group of observations, all of them right. Minutes are for someone who has read the lesson.

| | exercise | minutes | | points | variants |
|---|---|---:|---|---:|---:|"""


def row(number, x):
    name = f"[`{x.name}`](#{x.name})"
    return (
        f"| {number} | {name}: {x.title} | {x.minutes} | {LEVELS[x.difficulty]} | {len(x.groups)} | {len(x.variants)} |"
    )


def chapter(x):
    yield f"\n## `{x.name}`\n\n**{x.title}.** {x.why} To read: {x.read}.\n"
    yield f"To write: {', '.join(f'`{stub}`' for stub in x.stubs)}. Points: {', '.join(x.groups)}.\n"
    yield "| a mistake looks like | the student is asked | and told |\n|---|---|---|"
    for m in x.mistakes:
        seen = "" if m.seen == "classic" else f" *({m.seen})*"
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in (m.what, m.question, m.hint + seen)) + " |"
    if x.variants:
        yield "\nHouse rules: " + "; ".join(f"*{h.id}*: {h.rule}" for h in x.variants) + "."


def page():
    rows = [row(i + 1, x) for i, x in enumerate(exercises().values())]
    return "\n".join([HEAD, *rows, *(line for x in exercises().values() for line in chapter(x))]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
