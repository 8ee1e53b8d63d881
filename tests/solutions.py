"""What tests of the classroom share: solutions made from the project's own, and the report on them."""

from minipeft.classroom.engine.diagnose import judge
from minipeft.classroom.engine.exercise import get_exercise
from minipeft.classroom.engine.observe import Subject, work_in


def replaced(text, *pairs):
    """The text with each (old, new) of them replaced; the old one has to stand there once."""
    for old, new in pairs:
        assert text.count(old) == 1, f"{old!r} stands there {text.count(old)} times"
        text = text.replace(old, new)
    return text


def mistaken(exercise, number):
    """The project's own file with a mistake of the bank in it."""
    return exercise.with_edits(exercise.mistakes[number].diffs[0])


def judged(name, text, seed=None, only=None):
    """The report on a text, whose code runs in this process."""
    exercise = get_exercise(name)
    return judge(work_in(exercise, text, seed, only), Subject(exercise, text, seed))
