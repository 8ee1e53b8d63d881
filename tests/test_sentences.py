"""An encoder of sentences: one answer for a text, the mean over its real tokens."""

import pytest
import torch
from torch import nn

from minipeft.attach import trainable
from minipeft.deltas import load, save
from minipeft.methods import METHODS, BitFit, LoRA
from minipeft.models.sentences import MeanPooled
from minipeft.models.transformer import Config
from minipeft.views import merge
from tests.models import DIM, FF, HEADS, VOCAB, bits, close, moved, rows, same_bits, stirred


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = MeanPooled(Config(VOCAB, DIM, 2, HEADS, FF, 24, causal=False, pre_norm=False))
    made.head = nn.Identity()
    return moved(made, made.parameters(), 0.3).requires_grad_(False).eval()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_text_has_the_embedding_that_it_has_alone(model, side):
    alone, tokens, mask = rows(side)
    together = model(tokens, mask)
    assert together.shape == (3, DIM)
    for row, text in zip(together, alone, strict=True):
        close(row, model(text[None])[0])


def test_the_head_is_that_of_the_mean(model):
    _, tokens, mask = rows("right")
    view = stirred(LoRA(rank=2, classes=4), model)
    h = []
    view.norm.register_forward_hook(lambda module, args, out: h.append(out))
    logits = view(tokens, mask)
    mean = torch.stack([row[real].mean(0) for row, real in zip(h[0], mask, strict=True)])
    close(logits, mean @ view.head.weight.T + view.head.bias)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_a_classifier_and_leaves_the_base_alone(name, model, tmp_path):
    _, tokens, mask = rows("right")
    before = bits(model)
    view = stirred(METHODS[name](classes=4), model)
    assert {"head.weight", "head.bias"} <= set(trainable(view))
    logits = view(tokens, mask)
    assert logits.shape == (3, 4)
    save(view, tmp_path / "delta")
    close(load(tmp_path / "delta", model)(tokens, mask), logits)
    assert same_bits(model, before)


def test_it_merges_with_its_classifier(model):
    _, tokens, mask = rows("left")
    for method in (LoRA(rank=2, classes=4), BitFit(classes=4)):
        view = stirred(method, model)
        close(merge(view)(tokens, mask), view(tokens, mask))
