"""P-tuning v1: what the encoder makes, where a template puts it, and what is left of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import attachments
from minipeft.deltas import fold, load, read, save
from minipeft.methods import PTuning
from minipeft.methods.p_tuning import LSTMEncoder, MLPEncoder
from minipeft.models.transformer import Cache
from tests.models import DIM, T, close, count, make, rows, stirred


def h_of(model):
    return model.embed.token.encoder()


def by_hand(model, vectors):
    """Logits from embedded tokens (B, T, d), without positions, on a model with absolute ones."""
    x = vectors + model.embed.position.weight[: vectors.shape[1]]
    for block in model.blocks:
        x = block(x)
    return model.head(model.norm(x))


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
def test_without_a_template_it_is_a_prompt(encoder):
    model, (_, tokens, _) = stirred(PTuning(length=4, encoder=encoder, width=5), make(None)), rows()
    table = model.embed.token.base.weight
    x = torch.cat([h_of(model).expand(3, -1, -1), F.embedding(tokens, table)], 1)
    close(model(tokens), by_hand(model, x)[:, 4:])


def test_a_template_mixes_virtual_tokens_with_anchors():
    model, (_, tokens, _) = stirred(PTuning(length=2, template=(-1, 9, -1, 4), width=5), make(None)), rows()
    table, h = model.embed.token.base.weight, h_of(model)
    front = torch.stack([h[0], table[9], h[1], table[4]])
    close(model(tokens), by_hand(model, torch.cat([front.expand(3, -1, -1), F.embedding(tokens, table)], 1))[:, 4:])
    with torch.no_grad():
        before = table.clone()
        for p in model.embed.token.encoder.parameters():
            p.add_(1)
    assert torch.equal(table, before), "anchors are ordinary embeddings"


def test_virtual_tokens_may_stand_inside_the_input_elsewhere_in_every_row():
    model, (_, tokens, _) = stirred(PTuning(length=3, template=(-1,), width=5), make(None)), rows()
    tokens[0, [2, 5]] = tokens[1, [0, 1]] = tokens[2, [3, 6]] = -1
    table, h = model.embed.token.base.weight, h_of(model)
    x = F.embedding(tokens.clamp(min=0), table).detach()
    for row, places in enumerate(((2, 5), (0, 1), (3, 6))):
        x[row, places[0]], x[row, places[1]] = h[1], h[2]  # in their order, the first stands in the template
    x = torch.cat([h[:1].expand(3, -1, -1), x], 1)
    close(model(tokens), by_hand(model, x)[:, 1:])
    made = model.generate(tokens, 5)
    assert torch.equal(made, model.generate(tokens, 5, cache=False))


def test_another_number_of_virtual_tokens_than_there_are_is_told():
    model, (_, tokens, _) = PTuning(length=3, template=(-1,), width=5).attach(make()), rows()
    with pytest.raises(ValueError, match=r"a row has 1 virtual tokens \(-1\) here, expected 3: 3 in all, 1 of them in"):
        model(tokens)
    tokens[:, 2:4] = -1
    cache = Cache(3)
    model(tokens, cache=cache)
    tokens[1, 6] = -1
    with pytest.raises(ValueError, match="a row has 4 virtual tokens"):
        model(tokens)
    with pytest.raises(ValueError, match=r"a row has 1 virtual tokens.*at the beginning"):
        model(tokens[1:2, 6:], cache=cache)


def test_the_encoder_is_folded_away(tmp_path):
    model, (_, tokens, _) = stirred(PTuning(length=4, width=5), make()), rows()
    h, logits = h_of(model).detach(), model(tokens)
    save(model, tmp_path / "d.safetensors")
    delta = read(tmp_path / "d.safetensors")
    assert torch.equal(delta.tensors["embed.token.encoder.h"], h)
    assert list(delta.tensors) == ["embed.token.encoder.h"]
    assert any(isinstance(m, nn.LSTM) for m in model.modules()), "training may go on"
    for folded in (load(tmp_path / "d.safetensors", make()), fold(model)):
        close(folded(tokens), logits, 1e-6)
        assert not any(isinstance(m, nn.LSTM) for m in folded.modules())
        assert count(folded) == 4 * DIM
        assert attachments(folded)[0].method == PTuning(length=4, width=5, encoder=None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": 0}, "length must be a whole number of at least 1, got 0"),
        ({"width": -3}, "width must be"),
        ({"encoder": "gru"}, "lstm, mlp or None, got 'gru'"),
        ({"template": "h h x"}, "tuple of tokens"),
        ({"template": (-1, "please")}, "tuple of tokens"),
        ({"length": 2, "template": (-1, -1, -1)}, "3 virtual tokens but length is 2"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        PTuning(**settings)


@pytest.mark.parametrize("token", [23, -2])
def test_an_anchor_that_does_not_exist_is_told(token):
    with pytest.raises(ValueError, match=f"the token {token}; there are 0 to 22"):
        PTuning(template=(-1, token)).attach(make())


def test_without_the_method_a_virtual_token_is_no_token():
    with pytest.raises(IndexError):
        make()(torch.full((1, T), -1))
