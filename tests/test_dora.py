"""DoRA against its equation: non-square weights, biases, α ≠ r, and A, B and m far from their start."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import trainable
from minipeft.deltas import updates
from minipeft.methods import DoRA, LoRA
from minipeft.methods.dora import DoRALinear, decompose
from minipeft.views import merge
from tests.models import apart, close, make, one, rows, stirred


def adapted(base, rank, alpha):
    """A model of one layer with DoRA on it, A, B and m away from their start."""
    net = stirred(DoRA(rank, alpha, targets=("layer",)), one(base))
    with torch.no_grad():
        net.layer.m += 2
    return net


def by_hand(base, layer, s):
    """W', row by row."""
    found = []
    for i, w in enumerate(base.weight):
        v = w + s * layer.B[i] @ layer.A
        found.append(layer.m[i] * v / (v * v).sum().sqrt())
    return torch.stack(found)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("r", "alpha"), [(3, 8), (5, 2)])
def test_the_layer_is_the_equation_and_merging_writes_it_down(r, alpha, bias):
    base, x = nn.Linear(10, 7, bias), torch.randn(4, 6, 10)
    net = adapted(base, r, alpha)
    layer, merged = net.layer, merge(net).layer
    assert (layer.A.shape, layer.B.shape, layer.m.shape) == ((r, 10), (7, r), (7,))
    W = by_hand(base, layer, alpha / r)
    for found in (layer, merged):
        close(found(x), F.linear(x, W, base.bias))
        close(found.weight, W)
    close(layer.delta(), W - base.weight)


def test_in_the_gradient_the_lengths_are_constants():
    base, x, g = nn.Linear(10, 7), torch.randn(4, 10), torch.randn(4, 7)
    layer = adapted(base, 3, 8).layer
    (layer(x) * g).sum().backward()
    A, B, m, s = layer.A.detach(), layer.B.detach(), layer.m.detach(), 8 / 3
    V = base.weight + s * B @ A
    length = V.norm(dim=1)
    G = (g.T @ x) * (m / length)[:, None]  # ∂L/∂V, were ‖V‖ constant
    close(layer.A.grad, s * B.T @ G)
    close(layer.B.grad, s * G @ A.T)
    close(layer.m.grad, ((g.T @ x) * V / length[:, None]).sum(1))
    assert base.weight.grad is None


def test_m_starts_at_the_lengths_of_the_rows():
    view = DoRA(3, 5, ("q", "up", "head")).attach(make())
    for name, (W, _) in updates(view).items():
        close(trainable(view)[name.replace("weight", "m")], W.square().sum(1).sqrt())


def test_A_starts_uniform_with_the_bound_of_its_fan_in():
    A, bound = DoRALinear(nn.Linear(1000, 3), rank=40, scale=1).A, 1 / math.sqrt(1000)
    assert 0.99 * bound < A.abs().max() <= bound
    assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_magnitude_and_direction_of_a_weight_can_be_read():
    base = nn.Linear(10, 7)
    magnitude, direction = decompose(base.weight)
    assert (magnitude.shape, direction.shape) == ((7,), (7, 10))
    close(direction.norm(dim=1), torch.ones(7))
    close(magnitude[:, None] * direction, base.weight)
    layer = adapted(base, 3, 8).layer
    magnitude, direction = decompose(layer.weight)
    close(magnitude, layer.m.abs())
    with torch.no_grad():
        layer.m *= 3  # longer, and turned nowhere
    close(decompose(layer.weight)[1], direction)


def test_a_row_of_zeros_starts_as_zero_and_can_be_trained():
    base, x = nn.Linear(5, 3), torch.randn(2, 5)
    with torch.no_grad():
        base.weight[1] = 0
    net = DoRA(2, targets=("layer",)).attach(one(base))
    assert torch.equal(net(x), base(x))
    net(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in trainable(net).values())
    assert adapted(base, 2, 4)(x).isfinite().all()


@pytest.mark.parametrize("below", [LoRA, DoRA])
def test_on_another_method_it_decomposes_what_stands_below(below):
    lower, tokens = stirred(below(2, 3, ("q", "up")), make()), rows()[1]
    view = DoRA(3, 5, ("q", "up")).attach(lower)
    close(view(tokens), lower(tokens))
    close(view.blocks[0].attn.q.m, lower.blocks[0].attn.q.weight.norm(dim=1))
    apart(stirred(DoRA(3, 5, ("q", "up")), lower)(tokens), lower(tokens))
