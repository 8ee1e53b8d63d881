"""A learner's slips with what takes a model: told in words, before any work."""

import pytest
import torch

from minipeft import LoRA, MultiTask, check, detach, load, merge, move, save, summary
from minipeft.deltas import delta_of
from minipeft.methods.lora import LoRALinear
from tests.models import make


@pytest.mark.parametrize("wrong", [None, "letters-d64", LoRA(), LoRA, 3], ids=str)
@pytest.mark.parametrize("function", [
    lambda wrong: LoRA().attach(wrong), detach, merge, lambda wrong: move(wrong, "cpu"), summary,
    lambda wrong: save(wrong, "never.safetensors"), lambda wrong: load(delta_of(LoRA().attach(make())), wrong),
], ids=["attach", "detach", "merge", "move", "summary", "save", "load"])  # fmt: skip
def test_what_is_no_model_is_told(function, wrong):
    with pytest.raises(TypeError, match=r"a model is wanted here, a torch\.nn\.Module such as base\(\), got"):
        function(wrong)


def test_what_attach_returns_has_to_be_taken(tmp_path):
    model = make()
    LoRA().attach(model)
    with pytest.raises(ValueError, match="there is none: attach one, and take what attach returns"):
        save(model, tmp_path / "d")


def test_check_wants_the_name_of_an_exercise_and_your_work():
    for wrong in (LoRALinear, LoRALinear(torch.nn.Linear(3, 4), 2, 1.0), None):
        with pytest.raises(ValueError, match="check takes the name of the exercise first"):
            check(wrong, "lora")
    with pytest.raises(ValueError, match=r"what shall be checked\? Write check\('lora', YourClass\)"):
        check("lora")
    with pytest.raises(ValueError, match="there is no exercise 'lorra'"):
        check("lorra", LoRALinear)


def test_views_are_given_by_name():
    with pytest.raises(ValueError, match="MultiTask takes named views"):
        MultiTask([LoRA().attach(make())])
