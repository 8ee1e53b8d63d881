"""PiSSA: it starts as the base, split in two; what is trained is the larger part, and only that is stored."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from minipeft.arithmetic import compress
from minipeft.attach import detach, disabled, merge, trainable, unmerge
from minipeft.deltas import DeltaError, delta_of, fingerprint, load, save, updates
from minipeft.methods import LoRA, PiSSA
from minipeft.methods.pissa import PiSSALinear
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import task
from minipeft.training import fit

ALL = ("q", "k", "v", "o", "up", "down", "head")


def stirred(model):
    """What is trained, away from its start."""
    with torch.no_grad():
        for p in trainable(model).values():
            p += 0.3 * torch.randn_like(p)
    return model


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


@pytest.mark.parametrize("shape", [(7, 10), (10, 7)], ids=str)
def test_the_factors_start_as_the_principal_part_and_the_rest_is_frozen(shape):
    base = nn.Linear(shape[1], shape[0])
    layer = PiSSALinear(base, 3)
    W, S = base.weight.detach(), torch.linalg.svdvals(base.weight.detach())
    assert (layer.A.shape, layer.B.shape, layer.R.shape) == ((3, shape[1]), (shape[0], 3), shape)
    torch.testing.assert_close(layer.B @ layer.A + layer.R, W)
    torch.testing.assert_close(torch.linalg.svdvals(layer.B @ layer.A)[:3], S[:3])  # the largest
    torch.testing.assert_close(torch.linalg.svdvals(layer.R)[:-3], S[3:])
    torch.testing.assert_close(layer.A @ layer.A.T, S[:3].diag())  # and each factor has its root
    torch.testing.assert_close(layer.B.T @ layer.B, S[:3].diag())
    assert not layer.R.requires_grad


def test_the_layer_is_the_equation_and_merging_writes_it_down():
    base, x = nn.Linear(10, 7), torch.randn(4, 6, 10)
    net = PiSSA(3, ("0",)).attach(nn.Sequential(base))
    layer, rest = net[0], base.weight - (net[0].B @ net[0].A).detach()
    stirred(net)
    W = rest + layer.B @ layer.A
    torch.testing.assert_close(net(x), F.linear(x, W, base.bias))
    torch.testing.assert_close(layer.delta(), W - base.weight)
    torch.testing.assert_close(merge(net)[0].weight, W)
    torch.testing.assert_close(net(x), F.linear(x, W, base.bias))
    assert unmerge(net)[0] is layer


def test_the_start_is_the_base_up_to_rounding(model, tokens):
    y = model(tokens)
    PiSSA(3, ALL).attach(model)
    assert (model(tokens) - y).norm() / y.norm() < 2e-6
    for name, (W, change) in updates(model).items():
        assert change.norm() / W.norm() < 2e-7, name
    layer, x = nn.Linear(300, 200), torch.randn(50, 300)
    assert (PiSSALinear(layer, 5)(x) - layer(x)).norm() / layer(x).norm() < 5e-7


def test_both_factors_have_a_gradient_at_once_and_nothing_else_has(model, tokens):
    PiSSA(3, ("q", "up")).attach(model)
    model(tokens).square().sum().backward()
    assert all(p.grad.any() for p in trainable(model).values())
    places = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn.q", "mlp.up")]
    assert set(trainable(model)) == {f"{place}.{letter}" for place in places for letter in "AB"}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(trainable(model))
    assert sum(p.numel() for p in trainable(model).values()) == 2 * 3 * (12 + 12) + 2 * 3 * (12 + 21)


def test_only_the_factors_are_stored_and_they_come_back_exactly(model, tokens, tmp_path):
    base, mark, y = copy.deepcopy(model), fingerprint(model), model(tokens)
    stirred(PiSSA(3, ALL).attach(model))
    save(model, tmp_path / "d")
    assert set(load_file(tmp_path / "d")) == set(trainable(model))
    assert torch.equal(load(tmp_path / "d", base)(tokens), model(tokens))
    assert not torch.allclose(model(tokens), y, atol=0.1)
    with disabled(model):
        assert torch.equal(model(tokens), y)
    assert fingerprint(detach(model)) == mark
    assert torch.equal(model(tokens), y)


def test_the_rest_does_not_depend_on_the_signs_of_the_singular_vectors(monkeypatch):
    base, svd = nn.Linear(10, 7), torch.linalg.svd

    def other_signs(W, full_matrices):
        U, S, Vt = svd(W, full_matrices=full_matrices)
        signs = torch.tensor([1.0, -1.0]).repeat(len(S))[: len(S)].to(U)
        return U * signs, S, signs[:, None] * Vt

    one = PiSSALinear(base, 3)
    monkeypatch.setattr(torch.linalg, "svd", other_signs)
    other = PiSSALinear(base, 3)
    assert torch.equal(one.A[1], -other.A[1])
    assert torch.equal(one.R, other.R)


def test_the_parts_are_found_in_double_precision_whatever_the_base_has():
    base = nn.Linear(30, 20)
    layer, (_, S, Vt) = PiSSALinear(base, 3), torch.linalg.svd(base.weight.detach().double(), full_matrices=False)
    assert torch.equal(layer.A, (S[:3].sqrt()[:, None] * Vt[:3]).float())


def test_a_delta_is_refused_by_another_base_where_the_lora_it_amounts_to_would_do(model, tokens):
    stirred(PiSSA(3, ("q", "up")).attach(model))
    y, delta = model(tokens), delta_of(model)
    same = compress(detach(model), delta, rank=6)
    assert max(same.notes["error"].values()) < 1e-5
    torch.testing.assert_close(load(same, model)(tokens), y, atol=1e-4, rtol=1e-4)
    assert min(compress(detach(model), delta, rank=5).notes["error"].values()) > 0.01
    with torch.no_grad():
        model.head.bias += 1
    with pytest.raises(DeltaError, match="belongs to another base"):
        load(delta, model)


def test_stacked_it_splits_what_stands_below(model, tokens):
    stirred(LoRA(2, 3, ("q", "up")).attach(model))
    with torch.no_grad():
        for i in (0, 1):
            model.blocks[i].attn.q.B.normal_()
    y = model(tokens)
    PiSSA(3, ("q", "up")).attach(model, stack=True)
    torch.testing.assert_close(model(tokens), y, atol=1e-5, rtol=1e-5)
    z = stirred(model)(tokens)
    assert not torch.allclose(z, y, atol=0.1)
    torch.testing.assert_close(merge(model)(tokens), z, atol=1e-4, rtol=1e-4)


def test_generation_with_the_cache_is_generation_without(model, tokens):
    plain = model.generate(tokens, 6)
    stirred(PiSSA(3, ALL).attach(model))
    assert torch.equal(model.generate(tokens, 6), model.generate(tokens, 6, cache=False))
    assert not torch.equal(model.generate(tokens, 6), plain)


def test_it_learns_and_leaves_base_and_rest_alone():
    model = Transformer(Config(vocab=60, dim=16, heads=2, ff=24, context=32))
    mark = fingerprint(model)
    PiSSA(4, ALL).attach(model)
    rest = model.head.R.clone()
    history = fit(model, task("copy+plain"), steps=40, lr=2e-2, batch_size=16, device="cpu", progress=False)
    assert history.loss[-1] < history.loss[0] - 0.5
    assert torch.equal(model.head.R, rest)
    assert fingerprint(model) == mark


def test_new_weights_follow_the_type_of_the_base():
    for kind in (torch.float64, torch.bfloat16):
        layer = PiSSALinear(nn.Linear(4, 3).to(kind), 2)
        assert layer.A.dtype == layer.B.dtype == layer.R.dtype == layer(torch.randn(1, 4).to(kind)).dtype == kind


def test_bad_settings_are_told(model):
    for rank in (0, 2.5):
        with pytest.raises(ValueError, match=f"rank must be a whole number of at least 1, got {rank}"):
            PiSSA(rank)
    with pytest.raises(ValueError, match=r"'blocks.0.attn.q' has only 12 singular values, got rank=13"):
        PiSSA(13).attach(model)
    with pytest.raises(ValueError, match="only 12 singular values"):
        PiSSA(13, ("up",)).attach(model)  # 12 in, 21 out
    with pytest.raises(TypeError, match=r"PiSSA goes in front of Linear; 'embed.token' is a Embedding"):
        PiSSA(targets=("q", "token")).attach(model)
    PiSSA(12, ALL).attach(model)
