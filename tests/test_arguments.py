"""What a learner hands to a function by mistake: each is refused before any work, and the error says what to write."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from minipeft.bases import base
from minipeft.methods import Full, LoRA
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import (
    BOS,
    HELD_OUT,
    IGNORE,
    VOCABULARY,
    Few,
    Mixture,
    Task,
    answer,
    decode,
    encode,
    examples,
    letters,
    task,
)
from minipeft.training import evaluate, fit, pick_device

BLUE = task("reverse+blue")
SETTINGS = {"steps": 2, "lr": 1e-3, "batch_size": 2, "device": "cpu", "progress": False}


@pytest.fixture
def model():
    """Nothing may happen to it: whoever asks it for logits before the arguments are checked gets an error."""
    model = Transformer(Config(vocab=len(VOCABULARY), dim=16, heads=2, ff=24, context=24, bos=BOS)).eval()
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was used before the arguments were checked"))
    return model


class Unused:
    """A task that must not be asked for a batch."""

    def batch(self, size, generator):
        pytest.fail("a batch was drawn before the arguments were checked")


def named(value):
    return value[:20] if isinstance(value, str) else None


def refused(error, says, function, *args, **kwargs):
    with pytest.raises(error, match=says) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


NO_TASKS = [
    ("reverse+blue", r"the text 'reverse\+blue': write task\('reverse\+blue'\)"),
    (Task, r"the class Task: write task\('reverse\+blue'\)"),
    (task, r"the function task: write task\('reverse\+blue'\)"),
    (None, "None"),
    (300, "300"),
    ([BLUE], "the list"),
    (torch.zeros(2, 3), r"a tensor of float32 and shape \(2, 3\)"),
    (LoRA(), r"LoRA\(rank=4"),
    (Path("blue.safetensors"), r"PosixPath\('blue.safetensors"),
    (iter([]), "the list_iterator"),
    (BLUE.batch, "the method"),
]


@pytest.mark.parametrize(("value", "says"), NO_TASKS, ids=named)
def test_what_is_no_task(model, value, says):
    refused(TypeError, f"fit takes a task, got {says}", fit, model, value, **SETTINGS)
    refused(TypeError, f"evaluate takes a task, got {says}", evaluate, model, value)
    refused(TypeError, f"Few takes a task, got {says}", Few, value, 8)
    refused(TypeError, f"examples takes a task, got {says}", examples, value)


NO_MODELS = [
    (LoRA, r"the class LoRA: attach the method.*adapted = LoRA\(\).attach\(model\)"),
    (LoRA(rank=2), r"LoRA\(.*adapted = LoRA\(rank=2, .*\).attach\(model\)"),
    (Transformer, r"the class Transformer: call it first: Transformer\(...\)"),
    (base, r"the function base: call it first: base\(...\)"),
    ("letters-d64", r"the text 'letters-d64': hand it a model, such as base\(\)"),
    (None, "got None: hand it a model"),
    ({"head.weight": torch.zeros(2, 2)}, "got the dict"),
    (nn.Parameter(torch.zeros(2)), "got a tensor"),
]


@pytest.mark.parametrize(("value", "says"), NO_MODELS, ids=named)
def test_what_is_no_model(value, says):
    refused(TypeError, f"fit takes a model, .*{says}", fit, value, Unused(), **SETTINGS)
    refused(TypeError, f"evaluate takes a model, .*{says}", evaluate, value, Unused())
    refused(TypeError, f"answer takes a model, .*{says}", answer, value, ": cabbed =")


def test_swapped_arguments(model):
    refused(TypeError, r"the model comes first.*fit\(model, task\)", fit, BLUE, model, **SETTINGS)
    refused(TypeError, r"the model comes first.*evaluate\(model, task\)", evaluate, Mixture(), model)
    refused(TypeError, r"evaluate takes a task, got Transformer.*the model comes first", evaluate, model, model)
    refused(TypeError, "answer takes a model, got the text ': cabbed ='", answer, ": cabbed =", model)
    refused(TypeError, "Few takes a task, got 8", Few, 8, BLUE)


WRONG_WHOLE = [0, -3, 2.5, 300.0, "300", True, None, math.nan, math.inf, [300], torch.tensor(3.5)]
WRONG_ABOVE_0 = [0, -1e-2, "1e-2", True, None, math.nan, math.inf, -math.inf, (1e-2,), 1j]


@pytest.mark.parametrize("value", WRONG_WHOLE)
@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_numbers_of_steps_and_examples(model, name, value):
    says = f"{name} must be a whole number of at least 1, got"
    refused(ValueError, f"fit: {says}", fit, model, Unused(), **SETTINGS | {name: value})
    if name == "batch_size":
        refused(
            ValueError, "evaluate: size must be a whole number of at least 1, got", evaluate, model, Unused(), value
        )
        refused(ValueError, "Few: size must be a whole number of at least 1, got", Few, BLUE, value)


@pytest.mark.parametrize("value", WRONG_ABOVE_0)
@pytest.mark.parametrize("name", ["lr", "clip"])
def test_learning_rates_and_clipping(model, name, value):
    refused(ValueError, f"fit: {name} must be a number above 0, got", fit, model, Unused(), **SETTINGS | {name: value})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("seed", -1, "seed must be a whole number of at least 0, got -1"),
        ("seed", "7", "seed must be a whole number of at least 0, got the text '7'"),
        ("seed", 0.5, "seed must be a whole number"),
        ("warmup", -0.1, "warmup must be a number of at least 0 and below 1, got -0.1"),
        ("warmup", 1, "warmup must be a number of at least 0 and below 1, got 1"),
        ("warmup", 30, "warmup must be a number of at least 0 and below 1, got 30"),
        ("warmup", None, "warmup must be a number of at least 0 and below 1, got None"),
        ("betas", (0.9, 1.0), "betas must be a number of at least 0 and below 1, got 1.0"),
        ("betas", ("a", "b"), "betas must be a number"),
        ("betas", 0.9, "betas must be two numbers"),
        ("betas", (0.9,), "betas must be two numbers"),
        ("weight_decay", -0.1, "weight_decay must be a number of at least 0"),
        ("weight_decay", math.nan, "weight_decay must be a number of at least 0"),
    ],
)
def test_the_other_numbers_of_fit(model, name, value, says):
    refused(ValueError, f"fit: .*{says}", fit, model, Unused(), **SETTINGS | {name: value})


def test_what_fit_calls_after_a_step_must_be_callable(model):
    refused(TypeError, "on_step must be a function", fit, model, Unused(), **SETTINGS, on_step="print")


def test_seeds_of_the_others(model):
    refused(ValueError, "evaluate: seed must be a whole number", evaluate, model, Unused(), 10, seed=1.5)
    refused(ValueError, "Few: seed must be a whole number", Few, BLUE, 8, seed=None)


def test_numbers_of_numpy_are_numbers(model):
    model = Full().attach(Transformer(model.config))
    settings = {"steps": np.int64(2), "lr": np.float32(1e-3), "batch_size": np.int32(2), "seed": np.int64(1)}
    assert len(fit(model, BLUE, **SETTINGS | settings).loss) == 2
    assert evaluate(model, BLUE, np.int64(3), seed=np.int64(1)) == evaluate(model, BLUE, 3, seed=1)
    assert str(Few(BLUE, np.int64(3))) == "3 examples of reverse+blue"


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "", "meta", torch.device("meta"), 3, None, True, "CPU "])
def test_devices_that_are_not_there(model, device):
    refused(ValueError, "auto, cpu", pick_device, device)
    refused(ValueError, "auto, cpu", fit, model, Unused(), **SETTINGS | {"device": device})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    for device in ("cuda", "cuda:0", torch.device("cuda")):
        refused(ValueError, "finds no CUDA", pick_device, device)


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (3, TypeError, "encode takes a text, got 3"),
        (None, TypeError, "got None"),
        ([": cabbed =", ": deface ="], TypeError, "got the list.*one text at a time"),
        (b": cabbed =", TypeError, "got the bytes"),
        (torch.tensor([1, 2]), TypeError, "decode turns tokens into text"),
        ("cabbed", ValueError, "'cabbed'.*behind a colon, as in ': cabbed ='"),
        (": CABBED =", ValueError, "no 'C'"),
    ],
)
def test_what_cannot_be_encoded(value, error, says):
    refused(error, says, encode, value)


def test_nothing_is_encoded_as_no_tokens():
    assert encode("").dtype == torch.long
    assert decode(encode("")) == ""


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (torch.ones(2, 7, dtype=torch.long), ValueError, r"one row.*shape \(2, 7\): write decode\(made\[0\]\)"),
        (np.ones((2, 7), dtype=int), ValueError, r"decode\(made\[0\]\)"),
        ([[4, 5], [6, 7]], ValueError, r"decode\(made\[0\]\)"),
        (torch.tensor(5), ValueError, r"decode\(token\[None\]\)"),
        (5, TypeError, "decode takes tokens .* got 5"),
        (None, TypeError, "got None"),
        (torch.ones(7), TypeError, r"whole numbers, got a tensor of float32.*argmax\(-1\)"),
        ([4.0, 5.0], TypeError, "whole numbers"),
        (torch.tensor([True, False]), TypeError, "whole numbers"),
        (": cabbed =", TypeError, "the text ': cabbed =': encode turns"),
        (["a", "b"], TypeError, "whole numbers"),
        (torch.tensor([4, 60]), ValueError, "from 0 to 59, got 60"),
        (torch.tensor([IGNORE, 4]), ValueError, r"got -100: leave out what is not asked, row\[row != IGNORE\]"),
        ([4, -1], ValueError, "got -1"),
    ],
    ids=named,
)
def test_what_cannot_be_decoded(value, error, says):
    refused(error, says, decode, value)


def test_tokens_may_be_any_row_of_whole_numbers():
    for kind in (torch.uint8, torch.int16, torch.int32, torch.long):
        assert decode(encode(": cab").to(kind)) == ": cab"
    assert (
        decode(encode(": cab").numpy()) == decode(encode(": cab").tolist()) == decode(list(encode(": cab"))) == ": cab"
    )


@pytest.mark.parametrize("value", [3, None, ["c", "a", "b", "b", "e", "d"], ["ab"] * 6, b"cabbed", "cabbe"])
def test_what_is_no_word(value):
    refused(ValueError, "a word of 6 letters from a to p, got", letters, value)
    refused(ValueError, "a word of 6 letters from a to p, got", BLUE.prompt, value)


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (("reverse", "blue"), ValueError, r"instructed must be True or False.*write task\('reverse\+blue'\)"),
        (("reverse+blue", 1), ValueError, "instructed must be True or False, got 1"),
        (("reverse+blue", "False"), ValueError, "instructed must be True or False"),
        ((BLUE,), TypeError, "it is a task already"),
        ((3,), TypeError, "task takes a name, got 3"),
        ((("reverse", "blue"),), TypeError, "task takes a name, got the tuple"),
        (("reverse + blue",), ValueError, "like reverse.blue"),
        (("reverse+blue+red",), ValueError, "no task reverse.blue.red"),
    ],
    ids=named,
)
def test_what_names_no_task(args, error, says):
    refused(error, says, task, *args)


def test_a_task_is_made_of_two_names():
    for args in ((["reverse"], "blue"), ("reverse", None), (0, 1), ("blue", "reverse")):
        with pytest.raises(ValueError, match="no task"):
            Task(*args)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("cabbed", r"the text 'cabbed': write answer\(letters\('cabbed'\)\[None\]\)"),
        (letters("cabbed"), r"shape \(6,\): write answer\(letters\('cabbed'\)\[None\]\)"),
        (torch.zeros(2, 5, dtype=torch.long), r"shape \(2, 5\)"),
        (torch.zeros(2, 6), "a tensor of float32"),
        (torch.zeros(2, 6, dtype=torch.bool), "a tensor of bool"),
        ([[0, 1, 2, 3, 4, 5]], "got the list"),
        (
            BLUE.batch(2, torch.Generator()).tokens[:, 1:7] + 16,
            "letters are numbers from 0 to 15.*subtract FIRST_LETTER",
        ),
        (torch.full((1, 6), -1), "letters are numbers from 0 to 15, got -1"),
    ],
    ids=named,
)
def test_what_a_task_cannot_answer(value, says):
    refused(ValueError, says, BLUE.answer, value)


def test_no_word_at_all_has_no_answer_at_all():
    assert BLUE.answer(torch.zeros(0, 6, dtype=torch.long)).shape == (0, 6)


def test_answer_continues_one_text(model):
    refused(TypeError, "encode takes a text, got a tensor", answer, model, encode(": cabbed ="))


@pytest.mark.parametrize(
    ("only", "error", "says"),
    [
        ("reverse+blue", TypeError, r"write Mixture\(\('reverse\+blue',\)\)"),
        (BLUE, TypeError, r"write Mixture\(\('reverse\+blue',\)\)"),
        (("reverse+blue", "reverse+purple"), ValueError, r"no reverse\+purple: it has .*reverse\+red"),
        (("reverse+violet",), ValueError, r"no reverse\+violet"),
        ((3,), ValueError, "no 3"),
        (3, TypeError, "only takes a tuple of names, got 3"),
    ],
    ids=named,
)
def test_what_is_no_mixture(only, error, says):
    with pytest.raises(error, match=says):
        Mixture(only)


def test_a_mixture_takes_any_collection_of_names_or_tasks():
    first = Mixture(HELD_OUT)
    for only in (list(HELD_OUT), iter(HELD_OUT), map(task, HELD_OUT), dict.fromkeys(HELD_OUT)):
        assert Mixture(only) == first
    a, b = (m.batch(20, torch.Generator().manual_seed(0)).tokens for m in (first, Mixture(list(HELD_OUT))))
    assert torch.equal(a, b)
