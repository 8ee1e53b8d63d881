"""The questions of the lessons, in HTML, for a lesson's page and for interview.html."""

from lessons.pages.code import coloured
from lessons.pages.text import inline, markdown
from minipeft.classroom import questions


def all_of(lessons):
    """{stem: its questions} of those lessons that have some."""
    return {stem: of(stem) for stem in lessons if stem in questions.lessons()}


def of(stem):
    """What the template asks of each question of a lesson."""
    return [
        {
            "ask": inline(question.ask),
            "choices": [(c.letter, inline(c.answer), c.is_right, markdown(c.comment)) for c in question.choices],
            "source": question.code.rstrip(),
            "code": coloured(question.code),
            "prints": question.prints.rstrip(),
        }
        for question in questions.questions_of(stem)
    ]
