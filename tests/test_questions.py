"""The questions: each can stand alone, its code prints what is said, and answers are judged and noted."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minipeft import check, quiz
from minipeft.classroom import desk, diary, questions
from minipeft.classroom.engine import check as checking
from minipeft.cli import app
from minipeft.methods import lora

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


def interview(*words, typed=""):
    return CliRunner().invoke(app, ["interview", *words], input=typed)


def test_the_interview_asks_what_is_not_answered_yet_and_refutes_by_running(sample, tmp_path):
    wrong, right = letters(sample, right=False), letters(sample)
    said = interview(typed=f"x\n{wrong}\n").output
    assert "Running this shows it" in said
    assert f"Questions answered right: 0 of 1, {sample} 0 of 1" in said
    assert "1. " not in interview().output, "all are answered"
    assert f"1 of 1, {sample} 1 of 1" in interview("00", typed=f"{right}\n").output, (
        "a lesson that is named is asked again"
    )
    assert diary.answers("work") == {sample: right}
    assert "1 of 1" in CliRunner().invoke(app, ["start"]).output, "and start shows it"
    assert interview("00", typed="q\n").exit_code == 0
    assert diary.answers("work") == {sample: right}


def test_the_deck_is_written_once(sample, tmp_path):
    assert interview("--anki", "cards.txt").exit_code == 0
    assert (tmp_path / "cards.txt").read_text(encoding="utf-8") == questions.deck()
    again = interview("--anki", "cards.txt")
    assert "is there already" in str(again.exception) + again.output
    assert "there are for: 00_sample" in str((found := interview("99")).exception) + found.output


def test_a_body_that_was_right_in_a_notebook_is_seen_in_the_list(sample, monkeypatch):
    monkeypatch.setattr(checking, "in_notebook", lambda: True)

    class LoRALinear(lora.LoRALinear):
        def delta(self):
            return self.scale * self.B @ self.A

    check("lora", LoRALinear)
    assert desk.progress()["lora"].words == "1 of 7 in a notebook"


def test_what_somebody_else_wrote_into_the_diary_does_no_harm(sample):
    for text in ("[]", "{", '{"questions": {"00_sample": 3, "99": "a"}}'):
        diary.note("work", "questions")
        (diary.FOLDER / diary.BOOK).write_text(text)
        assert CliRunner().invoke(app, ["start"]).exit_code == 0, text
