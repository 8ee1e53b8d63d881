"""The real language model, as far as it goes without it: what is said if it is missing, and everything around it.

With the model itself: tests/parity/test_smollm2.py and the lessons from 22 on.
"""

import pytest
import torch
from typer.testing import CliRunner

from minipeft import talking
from minipeft.bases import base
from minipeft.cli import app
from minipeft.deltas import load
from minipeft.models.llama import Llama, LlamaConfig
from minipeft.published import smollm2
from minipeft.published.bpe import BPE
from minipeft.tasks import IGNORE
from minipeft.training import evaluate, fit
from minipeft.worlds import dialogues, reference
from minipeft.worlds.dialogues import PIRATE, UNSEEN, Dialogues, continued, pairs_of, pirate_words
from tests.models import make
from tests.test_gguf import TOKENIZER

WORDS = [*TOKENIZER["tokenizer.ggml.tokens"], "<|im_start|>", "<|im_end|>"]
META = TOKENIZER | {
    "tokenizer.ggml.tokens": WORDS, "tokenizer.ggml.eos_token_id": len(WORDS) - 1,
    "tokenizer.ggml.token_type": [3] + [1] * (len(WORDS) - 3) + [3, 3],
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """A small Llama with a small vocabulary in the place of the real one."""
    torch.manual_seed(0)
    model, words = Llama(LlamaConfig(len(WORDS), context=600)).requires_grad_(False).eval(), BPE(META)
    monkeypatch.setattr(smollm2, "smollm2", lambda: (model, words))
    monkeypatch.setattr(smollm2, "tokenizer", lambda: words)
    monkeypatch.setattr(smollm2, "path", lambda: "there")
    return model, words


@pytest.mark.parametrize("ask", [smollm2.smollm2, smollm2.path, lambda: base("smollm2")])
def test_without_the_wheel_one_is_told_how_to_get_it(ask, monkeypatch):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    assert not smollm2.there()
    with pytest.raises(ModuleNotFoundError, match=r"optional: python run\.py real"):
        ask()


@pytest.mark.parametrize("command", [["chat", "Hello"], ["teach", "--out", "x.safetensors"]])
def test_the_commands_say_so_too_and_leave_nothing_behind(command, monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert isinstance(CliRunner().invoke(app, command).exception, ModuleNotFoundError)
    assert not list(tmp_path.iterdir())


def test_a_stream_is_what_generate_gives_and_ends_before_the_stop():
    model = make("rotary")
    tokens = torch.tensor([[3, 8, 4]])
    whole = model.generate(tokens, 10)[0].tolist()
    assert list(smollm2.stream(model, tokens, 10)) == whole
    stop = whole[4]
    assert list(smollm2.stream(model, tokens, 10, stop=stop)) == whole[: whole.index(stop)]
    with pytest.raises(ValueError, match="temperature must be 0"):
        next(smollm2.stream(model, tokens, 10, temperature=-1))


def test_a_sampled_stream_is_that_of_generate_with_the_same_generator():
    model, tokens = make("rotary"), torch.tensor([[3, 8, 4]])
    sampled = list(smollm2.stream(model, tokens, 10, 2.0, generator=torch.Generator().manual_seed(1)))
    whole = model.generate(tokens, 10, temperature=2.0, generator=torch.Generator().manual_seed(1))
    assert sampled == whole[0].tolist()
    assert sampled != list(smollm2.stream(model, tokens, 10))


def test_a_conversation_ends_where_the_answer_begins():
    said = smollm2.conversation("Hi", "Hello!", "And now?", system="Be brief.")
    assert said == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_answer_is_said_in_pieces_that_are_the_whole(small):
    pieces = []
    made = smollm2.answer(
        *small, "the", new=20, temperature=1.5, generator=torch.Generator().manual_seed(0), say=pieces.append
    )
    assert "".join(pieces) in (made, made.rstrip("\ufffd"))
    assert len(pieces) > 3


def test_several_answers_at_once_are_those_given_one_by_one(small):
    questions = ["the", "th the t", "eh the the the"]
    alone = [smollm2.answer(*small, question, new=12) for question in questions]
    assert smollm2.answers(*small, questions, new=12) == alone
    assert smollm2.answers(*small, questions[:1], system="the", new=12) == [
        smollm2.answer(*small, "the", system="the", new=12)
    ]


def test_only_the_tokens_of_the_answer_are_asked():
    batch = continued([([5, 6, 7], [8, 9]), ([5], [8, 9])])
    assert batch.tokens.tolist() == [[5, 6, 7, 8], [5, 8, 0, 0]]
    assert batch.targets.tolist() == [[IGNORE, IGNORE, 8, 9], [8, 9, IGNORE, IGNORE]]
    assert batch.mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_dialogues_end_with_the_token_that_ends_an_answer(small):
    _, words = small
    task = Dialogues((("the", "th"), ("t", "the the")))
    whole = task.every()
    for targets, (_, answer) in zip(whole.targets, task.pairs, strict=True):
        asked = targets[targets != IGNORE].tolist()
        assert words.decode(asked[:-1]) == answer
        assert asked[-1] == words.end
    cut = Dialogues(task.pairs, ends=False).every()
    for targets, (_, answer) in zip(cut.targets, task.pairs, strict=True):
        assert words.decode(targets[targets != IGNORE].tolist(), special=True) == answer
    drawn = task.batch(5, torch.Generator())
    assert len(drawn.tokens) == 5
    one = Dialogues((("the", "th"),)).batch(2, torch.Generator())
    assert one.mask.all(), "no column is padding alone"
    assert one.tokens.shape == one.targets.shape < whole.tokens.shape


def test_the_pirate_never_trains_on_what_is_asked_later():
    questions = [question for question, _ in PIRATE]
    assert len({*questions}) == len(PIRATE) == 24
    assert not {*questions} & {*UNSEEN}
    assert all(len(pirate_words(answer)) >= 2 for _, answer in PIRATE)
    assert not pirate_words("The capital of France is Paris.")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pairs = [", "is no TOML file with pairs"),
        ("other = 3", "is no TOML file with pairs"),
        ("pairs = []", "has no pairs"),
        ('pairs = [["a", "b"], ["c"]]', r"pair 2 must be two texts, \[question, answer\], got \['c'\]"),
        ('pairs = [["a", " "]]', "pair 1 must be two texts"),
        ("pairs = 3", "pair 1 must be two texts"),
    ],
)
def test_a_file_without_pairs_is_told(text, says, tmp_path):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ValueError, match=says):
        pairs_of(tmp_path / "x.toml")
    with pytest.raises(FileNotFoundError, match="write one like"):
        pairs_of(tmp_path / "y.toml")


def test_teach_saves_what_chat_answers_with(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text('pairs = [["the", "th"], ["t", "the the"]]')
    done = CliRunner().invoke(app, ["teach", "x.toml", "--steps", "2", "--out", "s.safetensors"])
    assert done.exit_code == 0, done.output
    assert "2 questions and answers" in done.output
    view = load(tmp_path / "s.safetensors", small[0])
    assert evaluate(view, Dialogues((("the", "th"),))).loss > 0
    done = CliRunner().invoke(app, ["chat", "the", "--delta", "s.safetensors", "--new", "3"])
    assert done.exit_code == 0, done.output
    assert "with LoRA(rank=8" in done.output


def test_without_a_question_chat_goes_on_until_an_empty_line(small, monkeypatch):
    asked = []
    monkeypatch.setattr(talking.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(talking, "asked", lambda: asked.pop(0))
    said = []
    monkeypatch.setattr(smollm2, "answer", lambda model, words, *messages, **_: said.append(messages) or "yes")
    asked += ["the", "t", ""]
    talking.chat(None)
    assert said == [("the",), ("the", "yes", "t")]


def test_a_paragraph_of_the_language_reference_is_in_one_part_alone():
    parts = {name: {p for ps in topics.values() for p in ps} for name, topics in reference.parts().items()}
    assert all(len(p) > 100 for p in parts.values())
    assert not parts["training"] & parts["test"]
    assert not parts["training"] & parts["validation"]
    assert not parts["validation"] & parts["test"]


def test_windows_of_the_reference_ask_for_the_next_token(small):
    reference.windows.cache_clear()
    task = reference.Reference("validation")
    whole = task.every()
    assert whole.tokens.shape == (12, reference.LENGTH)
    assert torch.equal(whole.tokens[:, 1:], whole.targets[:, :-1])
    assert [str(t) for t in task.sets(None, 0)] == [
        f"language reference ({p})" for p in ("training", "validation", "test")
    ]
    reference.windows.cache_clear()


def test_own_words_are_the_bases_samples_and_are_asked_alone(small, monkeypatch):
    reference.written.cache_clear()
    whole = reference.OwnWords().every()
    assert len(whole.tokens) == len(reference.QUESTIONS)
    assert ((whole.targets != IGNORE).sum(1) <= reference.LENGTH).all()
    assert torch.equal(reference.OwnWords().every().tokens, whole.tokens)
    reference.written.cache_clear()


def test_a_prompt_starts_at_words_of_the_real_vocabulary(small):
    view = talking.parse("PromptTuning(length=4, init=(5, 6))").attach(small[0])
    fit(view, Dialogues((("the", "th"),)), steps=2, batch_size=2, lr=1e-2, progress=False, device="cpu")
    assert dialogues.FILE.is_file()
