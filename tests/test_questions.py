"""The questions: each can stand alone, its code prints what is said, and answers are judged and noted."""

import json
from pathlib import Path

import pytest

from minipeft import quiz
from minipeft.classroom import diary, questions

EVERY = [(lesson, i) for lesson in questions.lessons() for i in range(len(questions.questions_of(lesson)))]


@pytest.fixture
def question(request):
    lesson, i = request.param
    return questions.questions_of(lesson)[i]


each_question = pytest.mark.parametrize("question", EVERY, indirect=True, ids=lambda p: f"{p[0]}-{p[1] + 1}")


@each_question
def test_the_code_prints_what_is_said(question):
    assert question.run() == question.prints


@each_question
def test_a_question_has_one_right_answer_and_a_misconception_for_each_other(question):
    assert len(question.wrong) >= 3
    assert len({c.answer for c in question.choices}) == len(question.choices)
    assert [c.letter for c in question.choices] == [*questions.LETTERS[: len(question.choices)]]
    assert sum(c.is_right for c in question.choices) == 1
    assert all(len(c.comment.split()) >= 5 for c in question.choices)
    assert question.ask.endswith("?")
    assert len(question.code.splitlines()) <= 15


@each_question
def test_the_right_answer_is_not_known_by_its_length(question):
    wrong = [len(answer) for answer, _ in question.wrong]
    assert 0.5 * min(wrong) <= len(question.right) <= 1.5 * max(wrong)


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """One question, for a lesson of its own, and an empty folder to be in."""
    monkeypatch.setattr(questions, "FOLDER", Path(__file__).parent / "questions")
    monkeypatch.chdir(tmp_path)
    return "00_sample"


def letters(lesson, right=True):
    found = ""
    for question in questions.questions_of(lesson):
        found += next(c.letter for c in question.choices if c.is_right == right)
    return found


def test_a_quiz_asks_judges_and_notes(sample, tmp_path, capsys):
    quiz(sample)
    said = capsys.readouterr().out
    first = questions.questions_of(sample)[0]
    assert first.ask in " ".join(said.split())
    assert first.why not in " ".join(said.split())
    assert not list(tmp_path.iterdir()), "asking notes nothing"

    count = len(letters(sample))
    quiz(sample, answers=letters(sample))
    assert f"{count} of {count} right" in capsys.readouterr().out
    quiz(sample, letters(sample, right=False)[0])
    said = capsys.readouterr().out
    assert f"0 of {count} right" in said
    assert first.code.splitlines()[0] in said
    assert first.prints.splitlines()[0] in said, "what refutes the answer was run"
    noted = json.loads((tmp_path / "work" / diary.BOOK).read_text())["questions"][sample]
    assert noted == letters(sample, right=False)[0] + "-" * (count - 1)
    assert questions.score(sample, noted) == 0
    assert questions.score(sample, letters(sample)) == count


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("10",), "there are no questions for the text '10'; there are for: 00_sample"),
        (("00_sample", "z"), "question 1 has the answers a, b, c, d, and - leaves it open; got 'z'"),
        (("00_sample", "a" * 9), "questions, and 9 answers"),
        (("00_sample", 3), "a letter for each question"),
    ],
)
@pytest.mark.usefixtures("sample")
def test_what_cannot_be_an_answer_is_refused_and_nothing_is_noted(given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        quiz(*given)
    assert not list(tmp_path.iterdir())


def test_the_deck_has_a_card_for_each_question(sample):
    lines = questions.deck().splitlines()
    assert lines[0] == "#separator:tab"
    assert [line.count("\t") for line in lines[4:]] == [2] * len(questions.questions_of(sample))
