"""VeRA against its equation, on layers of different widths; and its random matrices: shared, frozen, made again."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from minipeft.attach import attachments, detach, disabled, merge, trainable, unmerge
from minipeft.bases import base
from minipeft.deltas import load, save, updates
from minipeft.methods import LoRA, VeRA
from minipeft.methods.vera import Shared
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import task
from minipeft.training import fit

DIM, FF, LAYERS, VOCAB = 12, 20, 2, 11
WIDE = VeRA(rank=7, targets=("q", "up", "down"), seed=3)  # (12, 12), (20, 12), (12, 20): no layer is as large as A, B


@pytest.fixture
def model():
    model = Transformer(Config(vocab=VOCAB, dim=DIM, heads=3, ff=FF, layers=LAYERS, context=16)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) / 2)
    return model


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (3, 6))


def stirred(model, method, stack=False):
    method.attach(model, stack)
    with torch.no_grad():
        for p in trainable(model).values():
            p.normal_()
    return model


def state(model):
    return {name: (p, p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}


def same(model, before):
    now = state(model)
    return list(now) == list(before) and all(
        now[n][0] is p and torch.equal(now[n][1], value) and now[n][2] == flag for n, (p, value, flag) in before.items()
    )


def layers(model):
    return [s.replacement for s in attachments(model)[0].swaps]


def test_each_layer_is_the_equation_with_its_part_of_the_shared_matrices():
    net = nn.Sequential(nn.Linear(10, 7), nn.Linear(7, 9, bias=False), nn.Linear(9, 4))
    weights = [layer.weight.detach().clone() for layer in net]
    stirred(net, VeRA(rank=5, targets=("0", "1", "2"), seed=8))
    pair = Shared(5, into=10, out=9, seed=8)
    for i, W in enumerate(weights):
        (out, into), bias = W.shape, net[i].bias
        assert (net[i].d.shape, net[i].b.shape) == ((5,), (out,))
        update = torch.diag(net[i].b) @ pair.B[:out] @ torch.diag(net[i].d) @ pair.A[:, :into]
        x = torch.randn(4, 6, into)
        y = F.linear(x, W + update, bias)
        torch.testing.assert_close(net[i](x), y, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(net[i].merged().weight, W + update)
        torch.testing.assert_close(net[i].merged()(x), y, atol=1e-5, rtol=1e-5)


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


def test_all_layers_share_one_pair_also_after_a_move_and_in_a_copy(model):
    WIDE.attach(model)
    for twin in (model, copy.deepcopy(model).double(), copy.deepcopy(model).to(torch.bfloat16)):
        matrices = [layer.matrices() for layer in layers(twin)]
        assert len(matrices) == 3 * LAYERS
        assert len({A.data_ptr() for A, _ in matrices}) == len({B.data_ptr() for _, B in matrices}) == 1
        assert matrices[0][0].dtype == twin.head.weight.dtype
    assert layers(model)[0].shared.A.shape == (7, FF)
    assert layers(model)[0].shared.B.shape == (FF, 7)


def test_only_the_vectors_are_trained_and_kept(model):
    names = set(model.state_dict())
    WIDE.attach(model)
    paths = [f"blocks.{i}.{name}" for i in range(LAYERS) for name in ("attn.q", "mlp.up", "mlp.down")]
    assert set(trainable(model)) == {f"{path}.{letter}" for path in paths for letter in "bd"}
    assert sum(p.numel() for p in trainable(model).values()) == LAYERS * (3 * 7 + DIM + FF + DIM)
    new = {n.replace(".base", "") for n in model.state_dict()} - names
    assert new == set(trainable(model))


def test_the_start_is_the_base_exactly_and_only_b_has_a_gradient(model, tokens):
    y = model(tokens)
    VeRA(rank=5, d_initial=0.3).attach(model)
    assert torch.equal(model(tokens), y)
    loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    loss.backward()
    for layer in layers(model):
        assert torch.equal(layer.d, torch.full((5,), 0.3))
        assert not layer.b.any()
        assert layer.b.grad.abs().sum() > 0
        assert not layer.d.grad.any()
    with torch.no_grad():
        for layer in layers(model):
            layer.b.sub_(layer.b.grad)
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    assert all(layer.d.grad.abs().sum() > 0 for layer in layers(model))
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_a_delta_is_small_and_makes_its_matrices_again(model, tokens, tmp_path):
    other = copy.deepcopy(model)
    method = VeRA(rank=300, targets=("q", "down"), seed=5)
    y = stirred(model, method)(tokens)
    size = save(model, tmp_path / "d")
    assert set(load_file(tmp_path / "d")) == set(trainable(model))
    assert size < 4 * sum(p.numel() for p in trainable(model).values()) + 2000
    assert size < 4 * layers(model)[0].shared.A.numel()
    torch.manual_seed(1234)
    dice = torch.get_rng_state()
    assert torch.equal(load(tmp_path / "d", other)(tokens), y)
    assert torch.equal(torch.get_rng_state(), dice)
    assert attachments(other)[0].method == method
    other = VeRA(rank=300, targets=("q", "down"), seed=6).attach(detach(other))
    with torch.no_grad():
        for name, p in trainable(other).items():
            p.copy_(trainable(model)[name])
    assert not torch.allclose(other(tokens), y, atol=1e-2)  # the same vectors with another seed are another delta


def test_a_predicate_goes_there_and_back(model, tokens, tmp_path):
    other = copy.deepcopy(model)
    y = stirred(model, VeRA(rank=5, targets=lambda path, module: path.endswith(("1.mlp.down", "attn.k"))))(tokens)
    save(model, tmp_path / "d")
    assert torch.equal(load(tmp_path / "d", other)(tokens), y)


def test_detach_gives_the_base_back_bit_for_bit(model, tokens):
    model.blocks[0].attn.q.requires_grad_(False)
    before, y = state(model), model(tokens)
    stirred(model, WIDE)
    assert not torch.allclose(model(tokens), y, atol=1e-2)
    with disabled(model):
        assert torch.equal(model(tokens), y)
    assert same(detach(model), before)


def test_merging_is_undone_exactly(model, tokens):
    before = state(model)
    y = stirred(model, WIDE)(tokens)
    torch.testing.assert_close(merge(model)(tokens), y, atol=1e-3, rtol=1e-3)
    assert set(dict(model.named_parameters())) == set(before)
    assert torch.equal(unmerge(model)(tokens), y)
    assert same(detach(model), before)


def test_what_moved_is_told(model):
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    merge(stirred(model, WIDE))
    new = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved = updates(unmerge(model))
    assert set(moved) == {name for name in old if not torch.equal(old[name], new[name])}
    assert all(torch.allclose(change, new[n] - old[n], atol=1e-5) for n, (_, change) in moved.items())


def test_on_lora_it_merges_to_what_both_compute(model, tokens):
    before = state(model)
    stirred(model, LoRA(rank=2))
    y = stirred(model, VeRA(rank=5, targets=("q", "up")), stack=True)(tokens)
    torch.testing.assert_close(merge(model)(tokens), y, atol=1e-3, rtol=1e-3)
    assert same(detach(unmerge(model)), before)


def test_it_learns_and_neither_the_base_nor_the_matrices_do():
    model = base()
    before = state(model)
    VeRA().attach(model)
    A, B = (matrix.clone() for matrix in layers(model)[0].matrices())
    history = fit(model, task("reverse+blue"), steps=40, lr=1e-1, batch_size=16, device="cpu", progress=False)
    assert sum(history.loss[-5:]) < 0.8 * sum(history.loss[:5])
    now = layers(model)[0].matrices()
    assert torch.equal(A, now[0])
    assert torch.equal(B, now[1])
    assert all((layer.d != 0.1).any() and layer.b.any() for layer in layers(model))
    assert same(detach(model), before)


def test_generation_with_the_cache_and_without_gives_the_same(model):
    tokens, mask = torch.randint(VOCAB, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]).bool()
    plain = model.generate(tokens, 8, mask)
    stirred(model, WIDE)
    assert torch.equal(model.generate(tokens, 8, mask), model.generate(tokens, 8, mask, cache=False))
    assert not torch.equal(model.generate(tokens, 8, mask), plain)


def test_the_input_is_not_touched_and_new_weights_follow_the_type_of_the_base():
    net = stirred(nn.ModuleDict({"layer": nn.Linear(5, 7)}).double(), VeRA(targets=("layer",)))
    x = torch.randn(3, 5).double()
    before = x.clone()
    assert net["layer"](x).dtype == net["layer"].b.dtype == net["layer"].d.dtype == torch.float64
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"rank": 2.5}, "got 2.5"),
        ({"d_initial": 0}, "above 0, got 0"),
        ({"d_initial": math.inf}, "got inf"),
        ({"seed": -1}, "at least 0, got -1"),
        ({"seed": None}, "got None"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        VeRA(**settings)


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        (VeRA(targets=("q", "token")), TypeError, "'embed.token' is a Embedding"),
        (VeRA(targets=("q.weight",)), TypeError, "'blocks.0.attn.q.weight' is a Parameter"),
        (VeRA(targets=("wand",)), ValueError, "'wand'; there are"),
    ],
)
def test_a_recipe_that_does_not_fit_is_told_and_leaves_the_model_as_it_was(model, method, error, says):
    before = state(model)
    with pytest.raises(error, match=says):
        method.attach(model)
    assert same(model, before)
    assert attachments(model) == []
