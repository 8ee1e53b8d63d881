"""What the other libraries compute with our folders, as the lessons ask them."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from minipeft.exchange import to_peft, to_transformers, witnesses
from minipeft.methods import LoRA
from minipeft.views import merge
from tests.exchange import built_like
from tests.models import VOCAB, stirred


@pytest.fixture
def pirate(tmp_path):
    """A model, a view of it, and a folder that holds the base, the adapter and the merged model."""
    model = built_like("llama")
    view = stirred(LoRA(rank=3, alpha=5), model)
    to_transformers(model, tmp_path / "base")
    to_transformers(merge(view), tmp_path / "merged")
    to_peft(view, tmp_path / "adapter")
    return model, view, tmp_path


def test_the_logits_of_the_adapter_and_of_the_merged_model_are_those_of_the_view(pirate):
    _, view, folder = pirate
    tokens = torch.randint(VOCAB, (2, 7))
    logits, said = witnesses.in_peft(folder / "adapter", folder / "base", tokens)
    assert (logits - view(tokens)).abs().max() < 1e-4
    assert not said
    assert (witnesses.in_transformers(folder / "merged", tokens) - view(tokens)).abs().max() < 1e-4


def test_what_peft_warns_of_is_told_and_nothing_else_changes(pirate):
    model, _, folder = pirate
    path, tokens = folder / "adapter" / "adapter_model.safetensors", torch.randint(VOCAB, (2, 7))
    save_file({name.removeprefix("base_model.model."): t for name, t in load_file(path).items()}, path)
    before = logging.root.manager.disable
    logits, said = witnesses.in_peft(folder / "adapter", folder / "base", tokens)
    assert (logits - model(tokens)).abs().max() < 1e-4
    assert any("missing adapter keys" in text for text in said)
    assert logging.root.manager.disable == before
