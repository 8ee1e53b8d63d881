"""LoRA against its equation: non-square weights, a rank that divides neither side, α ≠ r, a non-zero B, biases."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import detach, merge, trainable
from minipeft.methods import LoRA
from minipeft.methods.lora import LoRALinear

PAIRS = [(3, 8), (5, 2)]  # (r, α)


def adapted(base, rank, alpha, **settings):
    """The base inside a Sequential under the name "layer", with LoRA on it and B away from zero."""
    net = nn.Sequential()
    net.add_module("layer", base)
    LoRA(rank, alpha, targets=("layer",), **settings).attach(net)
    with torch.no_grad():
        net.layer.A.normal_()
        net.layer.B.normal_()
    return net


@pytest.mark.parametrize(("r", "alpha"), PAIRS)
def test_linear_is_the_equation(r, alpha):
    base = nn.Linear(10, 7)
    net = adapted(base, r, alpha)
    A, B = net.layer.A, net.layer.B
    assert (A.shape, B.shape) == ((r, 10), (7, r))
    x = torch.randn(4, 6, 10)
    W = base.weight + alpha / r * B @ A
    torch.testing.assert_close(net(x), F.linear(x, W, base.bias))
    torch.testing.assert_close(merge(net).layer.weight, W)
    torch.testing.assert_close(net(x), F.linear(x, W, base.bias))


@pytest.mark.parametrize(("r", "alpha"), PAIRS)
def test_embedding_is_the_equation(r, alpha):
    base = nn.Embedding(11, 6)
    net = adapted(base, r, alpha)
    A, B = net.layer.A, net.layer.B
    assert (A.shape, B.shape) == ((r, 11), (6, r))
    tokens = torch.tensor([[1, 10, 3], [0, 1, 1]])
    E = base.weight + alpha / r * (B @ A).T
    torch.testing.assert_close(net(tokens), E[tokens])
    torch.testing.assert_close(merge(net)(tokens), E[tokens])


@pytest.mark.parametrize(("r", "alpha"), PAIRS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": "same", "padding_mode": "circular"}],
    ids=str,
)
def test_conv_is_the_equation(r, alpha, settings):
    base = nn.Conv2d(3, 8, 3, **settings)
    net = adapted(base, r, alpha)
    A, B = net.layer.A, net.layer.B
    x = torch.randn(2, 3, 9, 7)
    W = base.weight + alpha / r * torch.einsum("or,rikl->oikl", B, A)
    expected = base._conv_forward(x, W, base.bias)
    torch.testing.assert_close(net(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(merge(net)(x), expected, atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in [A, B]) == r * 3 * 9 + 8 * r


def test_rslora_scales_by_the_root_of_the_rank():
    assert adapted(nn.Linear(4, 4), 3, 8, rslora=True).layer.scale == 8 / math.sqrt(3)


@pytest.mark.parametrize(
    ("kind", "tokens"), [(nn.Linear(9, 5), False), (nn.Embedding(9, 5), True), (nn.Conv2d(4, 5, 1), False)]
)
def test_the_start_is_the_base_exactly_and_one_factor_has_a_gradient(kind, tokens):
    net = nn.Sequential()
    net.add_module("layer", kind)
    x = torch.arange(9)[None] if tokens else torch.randn(2, 4, 3, 3) if kind.weight.ndim == 4 else torch.randn(3, 9)
    y = net(x)
    LoRA(targets=("layer",)).attach(net)
    assert torch.equal(net(x), y)
    (net(x) ** 2).sum().backward()
    live, zero = (net.layer.A, net.layer.B) if tokens else (net.layer.B, net.layer.A)
    assert live.grad.abs().sum() > 0
    assert zero.grad.abs().sum() == 0
    assert kind.weight.grad is None


def test_A_starts_uniform_with_the_bound_of_its_fan_in():
    A = LoRALinear(nn.Linear(1000, 3), rank=40, scale=1).A
    bound = 1 / math.sqrt(1000)
    assert 0.99 * bound < A.abs().max() <= bound
    assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_dropout_acts_on_the_update_alone_and_only_in_training():
    base, x = nn.Linear(50, 7), torch.randn(4, 50)
    y = base(x)
    net = adapted(base, 3, 8, dropout=0.99).train()
    torch.testing.assert_close(torch.stack([net(x) for _ in range(200)]).median(0).values, y, atol=1e-4, rtol=0)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    with torch.no_grad():
        net.layer.B.zero_()
    assert torch.equal(net.train()(x), y)


def test_ranks_may_differ_between_targets():
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    LoRA(rank=2, alpha=6, targets=("0", "1"), rank_pattern={"1": 3}).attach(net)
    assert (net[0].A.shape, net[1].A.shape) == ((2, 6), (3, 5))
    assert (net[0].scale, net[1].scale) == (3, 2)


def test_lora_plus_lets_B_learn_faster_and_leaves_none_out():
    net = nn.Sequential(nn.Linear(6, 5), nn.Embedding(5, 4))
    method = LoRA(targets=("0", "1"), lr_ratio=16)
    method.attach(net)
    rate = {p: g["lr"] for g in method.groups(net, 1e-3) for p in g["params"]}
    assert {name: rate[p] for name, p in trainable(net).items()} == {
        "0.A": 1e-3,
        "0.B": 1.6e-2,
        "1.A": 1e-3,
        "1.B": 1.6e-2,
    }


def test_parameters_are_counted_by_the_formula():
    net = nn.Sequential(nn.Linear(10, 7), nn.Linear(7, 3, bias=False))
    LoRA(rank=4, targets=("0", "1")).attach(net)
    assert sum(p.numel() for p in trainable(net).values()) == 4 * (10 + 7) + 4 * (7 + 3)


def test_the_input_is_not_touched():
    net, x = adapted(nn.Linear(5, 5), 2, 8), torch.randn(3, 5)
    before = x.clone()
    net(x)
    assert torch.equal(x, before)


def test_new_weights_follow_the_type_of_the_base():
    for layer in (nn.Linear(4, 3), nn.Embedding(4, 3), nn.Conv2d(4, 3, 1)):
        net = adapted(layer.double(), 2, 8)
        assert net.layer.A.dtype == net.layer.B.dtype == torch.float64
        assert detach(net).layer is layer


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"rank": 2.5}, "got 2.5"),
        ({"rank_pattern": {"q": -1}}, "got -1"),
        ({"alpha": 0}, "above 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"lr_ratio": -1}, "above 0"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        LoRA(**settings)


def test_what_it_cannot_stand_in_front_of_is_told():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.LayerNorm(4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="groups=1"):
        LoRA(targets=("0",)).attach(net)
    with pytest.raises(TypeError, match="'1' is a LayerNorm"):
        LoRA(targets=("1",)).attach(net)
    with pytest.raises(TypeError, match="matrix"):
        LoRA(targets=("2.bias",)).attach(net)
