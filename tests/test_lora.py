"""LoRA against its equation: non-square weights, a rank that divides neither side, α ≠ r, a non-zero B, biases."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import detach, trainable
from minipeft.methods import LoRA
from minipeft.methods.lora import LoRALinear
from minipeft.views import merge
from tests.models import apart, close, count, one, stirred

PAIRS = pytest.mark.parametrize(("r", "alpha"), [(3, 8), (5, 2)])


def adapted(base, rank, alpha, **settings):
    """A model of one layer with LoRA on it and B away from zero; its layer, and A and B."""
    net = stirred(LoRA(rank, alpha, targets=("layer",), **settings), one(base))
    return net, net.layer.A, net.layer.B


@PAIRS
def test_linear_is_the_equation(r, alpha):
    base, x = nn.Linear(10, 7), torch.randn(4, 6, 10)
    net, A, B = adapted(base, r, alpha)
    assert (A.shape, B.shape) == ((r, 10), (7, r))
    W = base.weight + alpha / r * B @ A
    close(net(x), F.linear(x, W, base.bias))
    close(net.layer.weight, W)
    close(merge(net).layer.weight, W)
    close(merge(net)(x), F.linear(x, W, base.bias))


@PAIRS
def test_embedding_is_the_equation(r, alpha):
    base, tokens = nn.Embedding(11, 6), torch.tensor([[1, 10, 3], [0, 1, 1]])
    net, A, B = adapted(base, r, alpha)
    assert (A.shape, B.shape) == ((r, 11), (6, r))
    E = base.weight + alpha / r * (B @ A).T
    close(net(tokens), E[tokens])
    close(merge(net)(tokens), E[tokens])


@PAIRS
@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": "same", "padding_mode": "circular"}],
    ids=str,
)
def test_conv_is_the_equation(r, alpha, settings):
    base, x = nn.Conv2d(3, 8, 3, **settings), torch.randn(2, 3, 9, 7)
    net, A, B = adapted(base, r, alpha)
    expected = base._conv_forward(x, base.weight + alpha / r * torch.einsum("or,rikl->oikl", B, A), base.bias)
    close(net(x), expected, 1e-4)
    close(merge(net)(x), expected, 1e-4)
    assert count(net) == r * 3 * 9 + 8 * r


@PAIRS
def test_a_weight_of_any_module_is_the_equation(r, alpha):
    base, x = nn.LSTM(6, 4), torch.randn(5, 2, 6)
    net = stirred(LoRA(r, alpha, targets=("weight_ih_l0",)), nn.ModuleDict({"rnn": base}))
    A, B = trainable(net).values()
    assert (A.shape, B.shape) == ((r, 6), (16, r))
    twin = nn.LSTM(6, 4)
    twin.load_state_dict(base.state_dict() | {"weight_ih_l0": base.weight_ih_l0 + alpha / r * B @ A})
    close(net["rnn"](x)[0], twin(x)[0])
    apart(net["rnn"](x)[0], base(x)[0])
    merged = merge(net)["rnn"]
    assert type(merged) is nn.LSTM
    close(merged(x)[0], twin(x)[0])


def test_rslora_scales_by_the_root_of_the_rank():
    assert adapted(nn.Linear(4, 4), 3, 8, rslora=True)[0].layer.scale == 8 / math.sqrt(3)


@pytest.mark.parametrize("layer", [nn.Linear(9, 5), nn.Embedding(9, 5), nn.Conv2d(4, 5, 1)], ids=repr)
def test_the_start_is_the_base_exactly_and_one_factor_has_a_gradient(layer):
    words = isinstance(layer, nn.Embedding)
    x = torch.arange(9)[None] if words else torch.randn(2, 4, 3, 3) if layer.weight.ndim == 4 else torch.randn(3, 9)
    net = LoRA(targets=("layer",)).attach(one(layer))
    assert torch.equal(net(x), layer(x))
    (net(x) ** 2).sum().backward()
    assert net.layer.A.grad.any() == words
    assert net.layer.B.grad.any() != words
    assert layer.weight.grad is None


def test_A_starts_uniform_with_the_bound_of_its_fan_in():
    A, bound = LoRALinear(nn.Linear(1000, 3), rank=40, scale=1).A, 1 / math.sqrt(1000)
    assert 0.99 * bound < A.abs().max() <= bound
    assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_dropout_acts_on_the_update_alone_and_only_in_training():
    base, x = nn.Linear(50, 7), torch.randn(4, 50)
    net, _, B = adapted(base, 3, 8, dropout=0.99)
    net.train()
    close(torch.stack([net(x) for _ in range(200)]).median(0).values, base(x), 1e-4)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
    with torch.no_grad():
        B.zero_()
    assert torch.equal(net.train()(x), base(x))


def test_ranks_may_differ_between_targets_and_each_has_its_scale():
    method = LoRA(rank=2, alpha=6, targets=("0", "1"), rank_pattern={"1": 3})
    net = method.attach(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)))
    assert (net[0].A.shape, net[1].A.shape) == ((2, 6), (3, 5))
    assert (net[0].scale, net[1].scale) == (3, 2)


def test_lora_plus_lets_B_learn_faster_and_leaves_none_out():
    method = LoRA(targets=("0", "1"), lr_ratio=16)
    net = method.attach(nn.Sequential(nn.Linear(6, 5), nn.Embedding(5, 4)))
    rate = {p: group["lr"] for group in method.groups(net, 1e-3) for p in group["params"]}
    found = {name: rate[p] for name, p in trainable(net).items()}
    assert found == {"0.A": 1e-3, "0.B": 1.6e-2, "1.A": 1e-3, "1.B": 1.6e-2}


def test_new_weights_follow_the_type_of_the_base():
    for layer in (nn.Linear(4, 3), nn.Embedding(4, 3), nn.Conv2d(4, 3, 1)):
        net, A, B = adapted(layer.double(), 2, 8)
        assert A.dtype == B.dtype == torch.float64
        assert detach(net).layer is layer


def test_what_it_cannot_stand_in_front_of_is_told():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.LayerNorm(4), nn.Linear(4, 4))
    for target, error, says in [
        ("0", ValueError, "groups=1"),
        ("1", TypeError, "in front of Linear, Embedding, Conv2d, a named weight; '1' is a LayerNorm: leave it out"),
        ("2.bias", TypeError, "matrix"),
    ]:
        with pytest.raises(error, match=says):
            LoRA(targets=(target,)).attach(net)
