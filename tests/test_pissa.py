"""PiSSA: it starts as the base, split in two; what is trained is the larger part, and only that is stored."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from minipeft.arithmetic import compress
from minipeft.attach import trainable
from minipeft.bases import base as shipped
from minipeft.deltas import DeltaError, delta_of, load, save, updates
from minipeft.methods import LoRA, PiSSA
from minipeft.methods.pissa import PiSSALinear
from minipeft.tasks import task
from minipeft.training import fit
from minipeft.views import merge
from tests.models import close, make, moved, one, rows, stirred

ALL = ("q", "k", "v", "o", "up", "down", "head")


@pytest.mark.parametrize("shape", [(7, 10), (10, 7)], ids=str)
def test_the_factors_start_as_the_principal_part_and_the_rest_is_frozen(shape):
    base = nn.Linear(shape[1], shape[0])
    layer, W, S = PiSSALinear(base, 3), base.weight.detach(), torch.linalg.svdvals(base.weight.detach())
    assert (layer.A.shape, layer.B.shape, layer.R.shape) == ((3, shape[1]), (shape[0], 3), shape)
    close(layer.B @ layer.A + layer.R, W)
    close(torch.linalg.svdvals(layer.B @ layer.A)[:3], S[:3])  # the largest
    close(torch.linalg.svdvals(layer.R)[:-3], S[3:])
    close(layer.A @ layer.A.T, S[:3].diag())  # and each factor has its root
    close(layer.B.T @ layer.B, S[:3].diag())
    assert not layer.R.requires_grad


def test_the_layer_is_the_equation_and_merging_writes_it_down():
    base, x = nn.Linear(10, 7), torch.randn(4, 6, 10)
    net = PiSSA(3, ("layer",)).attach(one(base))
    layer, rest = net.layer, base.weight - (net.layer.B @ net.layer.A).detach()
    moved(net, trainable(net).values(), 0.3)
    W = rest + layer.B @ layer.A
    for found in (layer, merge(net).layer):
        close(found(x), F.linear(x, W, base.bias))
        close(found.weight, W)
    close(layer.delta(), W - base.weight)


def test_the_start_is_the_base_up_to_rounding_and_both_factors_have_a_gradient_at_once():
    base, tokens = make(), rows()[1]
    view = PiSSA(3, ALL).attach(base)
    assert (view(tokens) - base(tokens)).norm() / base(tokens).norm() < 2e-6
    for name, (W, change) in updates(view).items():
        assert change.norm() / W.norm() < 2e-7, name
    view(tokens).square().sum().backward()
    assert all(p.grad.any() for p in trainable(view).values())
    layer, x = nn.Linear(300, 200), torch.randn(50, 300)
    assert (PiSSALinear(layer, 5)(x) - layer(x)).norm() / layer(x).norm() < 5e-7


def test_only_the_factors_are_stored_and_they_come_back_exactly(tmp_path):
    view, tokens = stirred(PiSSA(3, ALL), make()), rows()[1]
    save(view, tmp_path / "d")
    assert set(load_file(tmp_path / "d")) == set(trainable(view))
    assert torch.equal(load(tmp_path / "d", make())(tokens), view(tokens))


def test_the_rest_does_not_depend_on_the_signs_of_the_singular_vectors(monkeypatch):
    base, svd = nn.Linear(10, 7), torch.linalg.svd

    def other_signs(W, full_matrices):
        U, S, Vt = svd(W, full_matrices=full_matrices)
        signs = torch.tensor([1.0, -1.0]).repeat(len(S))[: len(S)].to(U)
        return U * signs, S, signs[:, None] * Vt

    layer = PiSSALinear(base, 3)
    monkeypatch.setattr(torch.linalg, "svd", other_signs)
    other = PiSSALinear(base, 3)
    assert torch.equal(layer.A[1], -other.A[1])
    assert torch.equal(layer.R, other.R)


def test_the_parts_are_found_in_double_precision_whatever_the_base_has():
    base = nn.Linear(30, 20)
    layer, (_, S, Vt) = PiSSALinear(base, 3), torch.linalg.svd(base.weight.detach().double(), full_matrices=False)
    assert torch.equal(layer.A, (S[:3].sqrt()[:, None] * Vt[:3]).float())
    assert torch.equal(layer.R, (base.weight.double() - layer.B.double() @ layer.A.double()).float())


def test_a_delta_is_refused_by_another_base_where_the_lora_it_amounts_to_would_do():
    base, tokens = make(), rows()[1]
    view = stirred(PiSSA(3, ("q", "up")), base)
    delta = delta_of(view)
    same = compress(base, delta, rank=6)
    assert max(same.notes["error"].values()) < 1e-5
    close(load(same, base)(tokens), view(tokens), 1e-4)
    assert min(compress(base, delta, rank=5).notes["error"].values()) > 0.01
    with torch.no_grad():
        base.head.bias += 1
    with pytest.raises(DeltaError, match="belongs to another base"):
        load(delta, base)


def test_on_another_method_it_splits_what_stands_below():
    lower = stirred(LoRA(2, 3, ("q", "up")), make())
    layer, W = PiSSA(3, ("q", "up")).attach(lower).blocks[0].attn.q, lower.blocks[0].attn.q.weight
    close(layer.R + layer.B @ layer.A, W)
    close(torch.linalg.svdvals(layer.B @ layer.A)[:3], torch.linalg.svdvals(W)[:3])


def test_the_rest_does_not_learn():
    view = PiSSA(4, ALL).attach(shipped("letters-d32"))
    rest = view.head.R.clone()
    fit(view, task("copy+plain"), steps=3, lr=2e-2, batch_size=16, device="cpu", progress=False)
    assert torch.equal(view.head.R, rest)


def test_new_weights_follow_the_type_of_the_base():
    for kind in (torch.float64, torch.bfloat16):
        layer = PiSSALinear(nn.Linear(4, 3).to(kind), 2)
        assert layer.A.dtype == layer.B.dtype == layer.R.dtype == layer(torch.randn(1, 4).to(kind)).dtype == kind


def test_a_rank_above_the_number_of_singular_values_is_told():
    for targets, path in ((("q",), "attn.q"), (("up",), "mlp.up")):  # 12 by 12; 12 in, 20 out
        with pytest.raises(ValueError, match=rf"'blocks\.0\.{path}' has only 12 singular values, got rank=13"):
            PiSSA(13, targets).attach(make())
    PiSSA(12, ALL).attach(make())
