"""VeRA against its equation, on layers of different widths; and its random matrices: shared, frozen, made again."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import attachments, trainable
from minipeft.bases import base as shipped
from minipeft.deltas import load, save
from minipeft.methods import VeRA
from minipeft.methods.vera import Shared
from minipeft.tasks import task
from minipeft.training import fit
from minipeft.views import merge, move
from tests.models import FF, LAYERS, apart, close, count, make, rows, stirred

WIDE = VeRA(rank=7, targets=("q", "up", "down"), seed=3)  # (12, 12), (20, 12), (12, 20): no layer is as large as A, B


def layers(view):
    return list(attachments(view)[0].layers.values())


def test_each_layer_is_the_equation_with_its_part_of_the_shared_matrices():
    base = nn.Sequential(nn.Linear(10, 7), nn.Linear(7, 9, bias=False), nn.Linear(9, 4))
    net, pair = stirred(VeRA(rank=5, targets=("0", "1", "2"), seed=8), base), Shared(5, into=10, out=9, seed=8)
    for layer, merged, plain in zip(net, merge(net), base, strict=True):
        out, into = plain.weight.shape
        assert (layer.d.shape, layer.b.shape) == ((5,), (out,))
        W = plain.weight + torch.diag(layer.b) @ pair.B[:out] @ torch.diag(layer.d) @ pair.A[:, :into]
        x = torch.randn(4, 6, into)
        for found in (layer, merged):
            close(found(x), F.linear(x, W, plain.bias))
            close(found.weight, W)


def test_A_and_B_start_uniform_with_the_bounds_of_their_fan_in():
    pair = Shared(rank=150, into=1000, out=400, seed=0)
    for matrix, shape, into in ((pair.A, (150, 1000), 1000), (pair.B, (400, 150), 150)):
        bound = math.sqrt(6 / into)
        assert matrix.shape == shape
        assert 0.99 * bound < matrix.abs().max() <= bound
        assert matrix.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_the_seed_alone_makes_the_matrices():
    dice = torch.get_rng_state()
    pair = Shared(3, into=4, out=5, seed=0)
    assert torch.equal(torch.get_rng_state(), dice)
    torch.manual_seed(99)
    torch.set_default_dtype(torch.float64)
    try:
        again = Shared(3, into=4, out=5, seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        elsewhere = Shared(3, into=4, out=5, seed=0)
    for twin in (again, elsewhere):
        assert torch.equal(pair.A, twin.A)
        assert torch.equal(pair.B, twin.B)
    assert not torch.equal(pair.A, Shared(3, into=4, out=5, seed=1).A)
    # what every stored delta relies on: if a PyTorch draws other numbers from this seed, this is where it shows
    assert pair.A[0].tolist() == pytest.approx([-0.009169, 0.657007, -1.008020, -0.901338], abs=1e-6)
    assert pair.B[-1].tolist() == pytest.approx([-0.227948, 0.149644, 1.280537], abs=1e-6)


def test_all_layers_share_one_pair_also_after_a_move_and_in_a_copy():
    view = WIDE.attach(make())
    for twin in (view, copy.deepcopy(view).double(), move(WIDE.attach(make()), torch.bfloat16)):
        matrices = [layer.matrices() for layer in layers(twin)]
        assert len(matrices) == 3 * LAYERS
        assert len({A.data_ptr() for A, _ in matrices}) == len({B.data_ptr() for _, B in matrices}) == 1
        assert matrices[0][0].dtype == twin.head.weight.dtype
    assert layers(view)[0].shared.A.shape == (7, FF)
    assert layers(view)[0].shared.B.shape == (FF, 7)


def test_the_vectors_alone_are_kept_and_start_where_they_should():
    base = make()
    view = VeRA(rank=5, targets=("q", "up"), d_initial=0.3).attach(base)
    assert {n.replace(".base", "") for n in view.state_dict()} - set(base.state_dict()) == set(trainable(view))
    for layer in layers(view):
        assert torch.equal(layer.d, torch.full((5,), 0.3))
        assert not layer.b.any()


def test_a_delta_is_small_and_makes_its_matrices_again(tmp_path):
    base, tokens = make(), rows()[1]
    view = stirred(VeRA(rank=300, targets=("q", "down"), seed=5), base)
    assert save(view, tmp_path / "d") < 4 * count(view) + 3000 < 4 * layers(view)[0].shared.A.numel()
    torch.manual_seed(1234)
    dice = torch.get_rng_state()
    assert torch.equal(load(tmp_path / "d", base)(tokens), view(tokens))
    assert torch.equal(torch.get_rng_state(), dice)
    other = VeRA(rank=300, targets=("q", "down"), seed=6).attach(base)
    with torch.no_grad():
        for name, p in trainable(other).items():
            p.copy_(trainable(view)[name])
    apart(other(tokens), view(tokens), 1e-2)  # the same vectors with another seed are another delta


def test_neither_matrix_learns():
    view = VeRA().attach(shipped("letters-d32"))
    before = [matrix.clone() for matrix in layers(view)[0].matrices()]
    fit(view, task("reverse+blue"), steps=3, lr=1e-1, batch_size=16, device="cpu", progress=False)
    assert all(map(torch.equal, before, layers(view)[0].matrices()))
    assert all((layer.d != 0.1).any() and layer.b.any() for layer in layers(view))
