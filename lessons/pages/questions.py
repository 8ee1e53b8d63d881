"""The questions of a lesson, as blocks of a page."""

from lessons.pages.text import inline, markdown

try:
    from minipeft.classroom import questions as bank
except ImportError:
    bank = None


def stems():
    return bank.lessons() if bank else []


def of(stem):
    """What a template needs of each question."""
    return [shown(question) for question in bank.questions_of(stem)] if bank else []


def shown(question):
    choices = [
        (letter, inline(answer), right, markdown(comment)) for letter, answer, right, comment in question.choices
    ]
    return {
        "ask": markdown(question.ask),
        "choices": choices,
        "code": question.code or "",
        "prints": question.prints or "",
    }
