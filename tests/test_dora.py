"""DoRA against its equation: non-square weights, biases, α ≠ r, and A, B and m far from their start."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import detach, disabled, merge, trainable, unmerge
from minipeft.deltas import fingerprint, load, save, updates
from minipeft.methods import DoRA, LoRA
from minipeft.methods.dora import DoRALinear, decompose
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import task
from minipeft.training import fit

PAIRS = [(3, 8), (5, 2)]  # (r, α)


def stirred(model):
    """What is trained, away from its start."""
    with torch.no_grad():
        for name, p in trainable(model).items():
            p.normal_(std=0.5)
            if name.endswith(".m"):
                p += 2
    return model


def adapted(base, rank, alpha):
    return stirred(DoRA(rank, alpha, targets=("0",)).attach(nn.Sequential(base)))


def by_hand(base, layer, s):
    """W', row by row."""
    rows = []
    for i, w in enumerate(base.weight):
        v = w + s * layer.B[i] @ layer.A
        rows.append(layer.m[i] * v / (v * v).sum().sqrt())
    return torch.stack(rows)


@pytest.fixture
def model():
    """Biases and norms that are not zero or one, too."""
    model = Transformer(Config(vocab=16, dim=12, heads=3, ff=21, context=16)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


@pytest.fixture
def tokens():
    return torch.randint(16, (3, 6))


@pytest.mark.parametrize(("r", "alpha"), PAIRS)
def test_the_layer_is_the_equation_and_merging_writes_it_down(r, alpha):
    base, x = nn.Linear(10, 7), torch.randn(4, 6, 10)
    net = adapted(base, r, alpha)
    layer = net[0]
    assert (layer.A.shape, layer.B.shape, layer.m.shape) == ((r, 10), (7, r), (7,))
    W = by_hand(base, layer, alpha / r)
    torch.testing.assert_close(net(x), F.linear(x, W, base.bias))
    torch.testing.assert_close(layer.delta(), W - base.weight)
    torch.testing.assert_close(merge(net)[0].weight, W)
    assert net[0].bias is base.bias
    torch.testing.assert_close(net(x), F.linear(x, W, base.bias))
    assert unmerge(net)[0] is layer


def test_in_the_gradient_the_lengths_are_constants():
    base, x, g = nn.Linear(10, 7), torch.randn(4, 10), torch.randn(4, 7)
    layer = adapted(base, 3, 8)[0]
    (layer(x) * g).sum().backward()
    A, B, m, s = layer.A.detach(), layer.B.detach(), layer.m.detach(), 8 / 3
    V = base.weight + s * B @ A
    length = V.norm(dim=1)
    G = (g.T @ x) * (m / length)[:, None]  # ∂L/∂V, were ‖V‖ constant
    torch.testing.assert_close(layer.A.grad, s * B.T @ G)
    torch.testing.assert_close(layer.B.grad, s * G @ A.T)
    torch.testing.assert_close(layer.m.grad, ((g.T @ x) * V / length[:, None]).sum(1))
    assert base.weight.grad is None
    assert base.bias.grad is None


@pytest.mark.parametrize("targets", [("q", "v"), ("q", "k", "v", "o", "up", "down", "head")], ids=str)
def test_the_start_is_the_base_bit_for_bit_and_b_and_m_have_a_gradient(model, tokens, targets):
    y = model(tokens)
    DoRA(3, 5, targets).attach(model)
    assert torch.equal(model(tokens), y)
    model(tokens).square().sum().backward()
    for name, p in trainable(model).items():
        assert p.grad.any() != name.endswith(".A"), name
    for name, (W, _) in updates(model).items():
        torch.testing.assert_close(trainable(model)[name.replace("weight", "m")], W.square().sum(1).sqrt())


def test_A_starts_uniform_with_the_bound_of_its_fan_in():
    A = DoRALinear(nn.Linear(1000, 3), rank=40, scale=1).A
    bound = 1 / math.sqrt(1000)
    assert 0.99 * bound < A.abs().max() <= bound
    assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_what_is_trained_is_a_b_and_m_as_the_formula_counts(model):
    DoRA(4, targets=("q", "up")).attach(model)
    places = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn.q", "mlp.up")]
    assert set(trainable(model)) == {f"{place}.{letter}" for place in places for letter in "ABm"}
    assert sum(p.numel() for p in trainable(model).values()) == 2 * (4 * (12 + 12) + 12) + 2 * (4 * (12 + 21) + 21)


def test_magnitude_and_direction_of_a_weight_can_be_read():
    base = nn.Linear(10, 7)
    magnitude, direction = decompose(base.weight)
    assert (magnitude.shape, direction.shape) == ((7,), (7, 10))
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(magnitude[:, None] * direction, base.weight)
    layer = adapted(base, 3, 8)[0]
    magnitude, direction = decompose(layer.adapted())
    torch.testing.assert_close(magnitude, layer.m.abs())
    with torch.no_grad():
        layer.m *= 3  # longer, and turned nowhere
    torch.testing.assert_close(decompose(layer.adapted())[1], direction)


def test_a_row_of_zeros_starts_as_zero_and_can_be_trained():
    base, x = nn.Linear(5, 3), torch.randn(2, 5)
    with torch.no_grad():
        base.weight[1] = 0
    net, y = nn.Sequential(base), base(x)
    DoRA(2, targets=("0",)).attach(net)
    assert torch.equal(net(x), y)
    net(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in trainable(net).values())
    assert adapted(base, 2, 4)(x).isfinite().all()


def test_it_goes_to_disk_and_back_and_off_again(model, tokens, tmp_path):
    base, mark, y = copy.deepcopy(model), fingerprint(model), model(tokens)
    stirred(DoRA(3, 5, ("k", "down")).attach(model))
    save(model, tmp_path / "d")
    assert torch.equal(load(tmp_path / "d", base)(tokens), model(tokens))
    assert not torch.allclose(model(tokens), y, atol=0.1)
    with disabled(model):
        assert torch.equal(model(tokens), y)
    assert fingerprint(detach(model)) == mark
    assert torch.equal(model(tokens), y)


@pytest.mark.parametrize("below", [LoRA, DoRA])
def test_stacked_it_decomposes_what_stands_below(model, tokens, below):
    stirred(below(2, 3, ("q", "up")).attach(model))
    y, before = model(tokens), dict(trainable(model))
    DoRA(3, 5, ("q", "up")).attach(model, stack=True)
    torch.testing.assert_close(model(tokens), y)
    z = stirred(model)(tokens)
    assert not torch.allclose(z, y, atol=0.1)
    assert not any(p.requires_grad for p in before.values())
    torch.testing.assert_close(merge(model)(tokens), z, atol=1e-4, rtol=1e-4)


def test_generation_with_the_cache_is_generation_without(model, tokens):
    plain = model.generate(tokens, 6)
    stirred(DoRA(3, 5, ("q", "k", "v", "up")).attach(model))
    assert torch.equal(model.generate(tokens, 6), model.generate(tokens, 6, cache=False))
    assert not torch.equal(model.generate(tokens, 6), plain)
    y = model(tokens)
    torch.testing.assert_close(merge(model)(tokens), y, atol=1e-5, rtol=1e-5)


def test_it_learns_and_leaves_the_base_alone():
    model = Transformer(Config(vocab=60, dim=16, heads=2, ff=24, context=32))
    mark = fingerprint(model)
    DoRA(4, 8, ("q", "v", "up", "down", "head")).attach(model)
    start = {name: p.detach().clone() for name, p in trainable(model).items()}
    history = fit(model, task("copy+plain"), steps=40, lr=2e-2, batch_size=16, device="cpu", progress=False)
    assert history.loss[-1] < history.loss[0] - 0.5
    assert all(not torch.equal(p, start[name]) for name, p in trainable(model).items())
    assert fingerprint(model) == mark


def test_new_weights_follow_the_type_of_the_base():
    layer = adapted(nn.Linear(4, 3).double(), 2, 8)[0]
    assert layer.A.dtype == layer.B.dtype == layer.m.dtype == layer(torch.randn(1, 4).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"rank": 2.5}, "got 2.5"),
        ({"alpha": 0}, "alpha must be a number above 0, got 0"),
        ({"alpha": math.inf}, "got inf"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        DoRA(**settings)


def test_what_it_cannot_stand_in_front_of_is_told(model):
    with pytest.raises(TypeError, match=r"DoRA goes in front of Linear; 'embed.token' is a Embedding"):
        DoRA(targets=("q", "token")).attach(model)
    with pytest.raises(TypeError, match=r"'head.weight' is a Parameter"):
        DoRA(targets=("head.weight",)).attach(model)
