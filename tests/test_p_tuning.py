"""P-tuning v1: what the encoder makes, where a template puts it, and what is left of it."""

import pytest
import torch
from torch import nn

from minipeft.attach import attachments
from minipeft.deltas import fold, load, read, save
from minipeft.methods import PTuning
from minipeft.methods.p_tuning import LSTMEncoder, MLPEncoder
from tests.models import DIM, VOCAB, close, count, make, rows, stirred, through


@pytest.mark.parametrize(("d", "w", "n"), [(12, 5, 3), (16, 24, 7)])
def test_the_number_of_parameters_is_that_of_the_docstring(d, w, n):
    def size(module):
        return sum(p.numel() for p in module.parameters())

    lstm = 8 * w * (d + w + 2) + 8 * w * (3 * w + 2) + (4 * w * w + 2 * w) + (2 * w * d + d)
    assert size(LSTMEncoder(n, d, w)) == n * d + lstm
    assert size(MLPEncoder(n, d, w)) == n * d + (d * w + w) + (w * w + w) + (w * d + d)


def test_the_lstm_lets_each_virtual_token_know_of_all_others_and_the_mlp_does_not():
    for kind, all_of_them in ((LSTMEncoder, True), (MLPEncoder, False)):
        encoder = kind(4, DIM, 5)
        for i in range(4):
            (g,) = torch.autograd.grad(encoder()[i].sum(), encoder.E)
            reached = g.abs().sum(1) > 0
            assert reached.tolist() == [all_of_them or j == i for j in range(4)]


@pytest.mark.parametrize("encoder", ["lstm", "mlp", None])
@pytest.mark.parametrize("template", [None, (-1, 9, -1, 4), (7, -1, -1)])
def test_the_template_mixes_virtual_tokens_with_anchors_and_without_one_it_is_a_prompt(encoder, template):
    method = PTuning(length=2, template=template, encoder=encoder, width=5)
    view, (_, tokens, _) = stirred(method, make(None)), rows()
    table, h = view.embed.token.weight, iter(view.begin.encoder())
    front = torch.stack([next(h) if place == -1 else table[place] for place in template or (-1, -1)])
    x = torch.cat([front.expand(3, -1, -1), table[tokens]], 1)
    close(view(tokens), through(view, x + view.embed.position.weight[: x.shape[1]], len(front)))


def test_anchors_stay_ordinary_embeddings():
    view = PTuning(length=1, template=(9, -1), width=5).attach(make())
    (front,) = view.begin(view.blocks).front
    assert torch.equal(front[0], view.embed.token.weight[9])
    front.sum().backward()
    assert view.embed.token.weight.grad is None
    assert all(p.grad is not None for p in view.begin.encoder.parameters())


def test_the_encoder_is_folded_away(tmp_path):
    view, (_, tokens, _) = stirred(PTuning(length=4, width=5), make()), rows()
    h = view.begin.encoder().detach()
    save(view, tmp_path / "d.safetensors")
    delta = read(tmp_path / "d.safetensors")
    assert list(delta.tensors) == ["begin.encoder.h"]
    assert torch.equal(delta.tensors["begin.encoder.h"], h)
    assert any(isinstance(m, nn.LSTM) for m in view.modules()), "training may go on"
    for folded in (load(tmp_path / "d.safetensors", make()), fold(view)):
        close(folded(tokens), view(tokens), 1e-6)
        assert not any(isinstance(m, nn.LSTM) for m in folded.modules())
        assert count(folded) == 4 * DIM
        assert attachments(folded)[0].method == PTuning(length=4, width=5, encoder=None)


def test_an_anchor_that_does_not_exist_is_told():
    with pytest.raises(ValueError, match=f"template holds {VOCAB}, but the vocabulary has the tokens 0 to {VOCAB - 1}"):
        PTuning(length=1, template=(-1, VOCAB)).attach(make())


def test_a_virtual_token_is_no_token_of_the_input():
    for model in (make(), PTuning(length=1, template=(-1,)).attach(make())):
        with pytest.raises(ValueError, match=f"the vocabulary has the tokens 0 to {VOCAB - 1}, the input holds -1"):
            model(torch.full((1, 3), -1))
