"""What the reader has done, from the book that the classroom keeps in work/; nothing if there is none."""

from pathlib import Path

from minipeft.classroom import desk, diary, questions
from minipeft.classroom.engine.exercise import exercises

WORK = Path(__file__).parents[2] / "work"


def of_lessons(folder=WORK):
    """{"10": ["1 of 3 exercises", "4 of 5 questions"]}: what is right, of lessons in which something is."""
    if not (folder / diary.BOOK).is_file():
        return {}
    done, right = {}, {}
    for name, state in desk.progress(folder).items():
        right.setdefault(exercises()[name].lesson, []).append(state.words == "right")
    for number, each in right.items():
        if any(each):
            done.setdefault(number, []).append(f"{sum(each)} of {len(each)} exercises")
    for stem, letters in diary.answers(folder).items():
        if stem in questions.lessons() and (score := questions.score(stem, letters)):
            done.setdefault(stem[:2], []).append(f"{score} of {len(questions.questions_of(stem))} questions")
    return done
