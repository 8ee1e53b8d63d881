"""IA³ against its equations: non-square weights, biases that are not zero, scales far from one, several heads."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import trainable
from minipeft.deltas import load, save, updates
from minipeft.methods import IA3
from minipeft.models.transformer import attend
from minipeft.views import merge
from tests.models import DIM, FF, HEADS, apart, close, make, one, rows, stirred

OUT = IA3(outputs=("layer",), inputs=())
INTO = IA3(outputs=(), inputs=("layer",))


@pytest.mark.parametrize("bias", [True, False])
def test_an_output_is_scaled_with_its_bias(bias):
    base, x = nn.Linear(5, 7, bias), torch.randn(4, 6, 5)
    net = stirred(OUT, one(base))
    l, W, b = net.layer.l, base.weight, base.bias
    assert l.shape == (7,)
    merged = merge(net)
    for layer in (net.layer, merged.layer):
        close(layer(x), l * F.linear(x, W, b))
        close(layer.weight, torch.diag(l) @ W)
        assert (layer.bias is None) == (not bias)
        if bias:
            close(layer.bias, l * b)


@pytest.mark.parametrize("bias", [True, False])
def test_an_input_is_scaled_and_the_bias_is_not(bias):
    base, x = nn.Linear(5, 7, bias), torch.randn(4, 6, 5)
    net = stirred(INTO, one(base))
    l, W, b = net.layer.l, base.weight, base.bias
    assert l.shape == (5,)
    merged = merge(net)
    for layer in (net.layer, merged.layer):
        close(layer(x), F.linear(l * x, W, b))
        close(layer.weight, W @ torch.diag(l))
        assert (layer.bias is None) == (not bias)
        if bias:
            assert torch.equal(layer.bias, b)


def test_keys_values_and_the_middle_of_the_mlp_are_scaled():
    base, x = make(), torch.randn(2, 5, DIM)
    view = stirred(IA3(), base)
    a, m, plain = view.blocks[1].attn, view.blocks[1].mlp, base.blocks[1]
    q, k, v = plain.attn.q(x), a.k.l * plain.attn.k(x), a.v.l * plain.attn.v(x)
    heads = [t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v)]
    y, _ = attend(*heads, torch.ones(5, 5, dtype=torch.bool).tril())
    close(a(x, "causal"), plain.attn.o(y.transpose(1, 2).flatten(2)), 1e-4)
    close(m(x), plain.mlp.down(m.down.l * F.gelu(plain.mlp.up(x))), 1e-4)


def test_behind_up_it_would_be_another_method():
    x, l, answers = torch.randn(2, 5, DIM), torch.randn(FF), []
    for method in (IA3(outputs=(), inputs=("down",)), IA3(outputs=("up",), inputs=())):
        view = method.attach(make())
        with torch.no_grad():
            for p in trainable(view).values():
                p.copy_(l)
        answers.append(view.blocks[0].mlp(x))
    apart(*answers)  # φ(l ⊙ z) is not l ⊙ φ(z)


def test_the_start_is_at_one():
    assert all(torch.equal(l, torch.ones_like(l)) for l in trainable(IA3().attach(make())).values())


def test_a_scale_of_zero_can_be_merged_and_the_view_remembers_what_it_took_away():
    base, tokens = make(), rows()[1]
    view = stirred(IA3(), base)
    with torch.no_grad():
        for l in trainable(view).values():
            l[::2] = 0
    merged = merge(view)
    close(merged(tokens), view(tokens), 1e-4)
    assert not merged.blocks[0].attn.k.weight[0].any()
    with torch.no_grad():
        for l in trainable(view).values():
            l.fill_(1)
    assert torch.equal(view(tokens), base(tokens))


def test_what_moved_tells_of_weights_and_biases():
    assert {name.split(".", 2)[2] for name in updates(stirred(IA3(), make()))} == {
        "attn.k.weight", "attn.k.bias", "attn.v.weight", "attn.v.bias", "mlp.down.weight"
    }  # fmt: skip


@pytest.mark.parametrize("method", [IA3(outputs=("o", "up"), inputs=("q",)), IA3(inputs=()), IA3(outputs=())], ids=str)
def test_there_and_back(method, tmp_path):
    view, tokens = stirred(method, make()), rows()[1]
    save(view, tmp_path / "d")
    again = load(tmp_path / "d", make())
    assert torch.equal(again(tokens), view(tokens))
    assert set(trainable(again)) == set(trainable(view))


def test_weight_decay_does_not_draw_the_scales_to_zero():
    method = IA3()
    view = method.attach(make())
    groups = method.groups(view, 0.02)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    assert [(group["weight_decay"], group["lr"]) for group in optimizer.param_groups] == [(0.0, 0.02)]
    assert {p for g in groups for p in g["params"]} == set(trainable(view).values())


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (IA3(outputs=("attn.k",), inputs=("k", "down")), r"blocks\.0\.attn\.k, blocks\.1\.attn\.k, .*: named both"),
        (IA3(inputs=("wo",)), "'wo'; there are"),
        (IA3(outputs=(), inputs=()), "the empty targets"),
    ],
)
def test_names_that_do_not_fit_are_told(method, says):
    with pytest.raises(ValueError, match=says):
        method.attach(make())
