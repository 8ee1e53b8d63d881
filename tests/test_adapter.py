"""The three adapters against their equations, written out by hand for a whole model.

Pre-norm and post-norm blocks, three heads, a padded row, weights of norms and biases away from their start, and
adapters whose two matrices and two biases are large.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import detach, disabled, merge, summary, trainable
from minipeft.deltas import load, save, updates
from minipeft.methods import Full, Houlsby, LoRA, ParallelAdapter, Pfeiffer
from minipeft.methods.adapter import Bottleneck
from minipeft.models.transformer import Cache, Config, Transformer, recording
from minipeft.tasks import Batch
from minipeft.training import fit

VOCAB, DIM, LAYERS, SIZE = 11, 12, 2, 5
RECIPES = [Houlsby(SIZE), Houlsby(SIZE, norms=False), Pfeiffer(SIZE), ParallelAdapter(SIZE, scale=2.5)]
ONE = 2 * DIM * SIZE + SIZE + DIM  # parameters of one adapter


@pytest.fixture(params=["pre-norm", "post-norm"])
def model(request):
    pre_norm = request.param == "pre-norm"
    model = Transformer(Config(VOCAB, DIM, LAYERS, heads=3, ff=20, context=16, pre_norm=pre_norm)).eval()
    return stir(model, model.parameters(), std=0.3)


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (3, 7))


@pytest.fixture
def mask():
    return torch.arange(7) >= torch.tensor([0, 3, 1])[:, None]  # rows of 7, 4 and 6 tokens, padded on the left


def stir(model, parameters, std):
    with torch.no_grad():
        for p in parameters:
            p += std * torch.randn_like(p)
    return model


def attached(model, method, std=0.5):
    return stir(method.attach(model), trainable(model).values(), std)


def each(methods):
    return pytest.mark.parametrize("method", methods, ids=str)


def same_state(model, before):
    now = model.state_dict()
    return list(now) == list(before) and all(torch.equal(now[name], t) for name, t in before.items())


# the equations


def by_hand(base, learned, method, tokens, mask):
    """Logits of the base with the adapters `learned`, {name: tensor}, by the table in the docstring of adapter.py."""
    φ = F.gelu if isinstance(method, Houlsby) else F.relu
    place = "{}" if isinstance(method, Pfeiffer) and base.config.pre_norm else "{}.mlp"
    place = "{}.norm2" if isinstance(method, Pfeiffer) and not base.config.pre_norm else place

    def A(where, h):
        D, b_D, U, b_U = (learned[f"{where}.adapter.{name}"] for name in ("D.weight", "D.bias", "U.weight", "U.bias"))
        return φ(h @ D.T + b_D) @ U.T + b_U

    def correction(path, x, f, n, norm):
        if isinstance(method, Houlsby):
            return A(path, f)
        if isinstance(method, Pfeiffer):
            return A(path, x + f if base.config.pre_norm else norm(x + f))
        return method.scale * A(path, n)

    x, _ = base.embed(tokens, None, mask)
    for i, block in enumerate(base.blocks):
        path = f"blocks.{i}"
        if base.config.pre_norm:
            f = block.attn(block.norm1(x), mask)
            x = x + f + (A(path + ".attn", f) if isinstance(method, Houlsby) else 0)
            n = block.norm2(x)
            f = block.mlp(n)
            x = x + f + correction(place.format(path), x, f, n, block.norm2)
        else:
            f = block.attn(x, mask)
            x = block.norm1(x + f + (A(path + ".attn", f) if isinstance(method, Houlsby) else 0))
            f = block.mlp(x)
            x = block.norm2(x + f + correction(place.format(path), x, f, x, block.norm2))
    return base.head(base.norm(x))


@each(RECIPES)
def test_the_whole_model_is_the_equation(model, method, tokens, mask):
    base = copy.deepcopy(model)
    y = attached(model, method)(tokens, mask)
    learned = trainable(model)
    assert not torch.allclose(base(tokens, mask)[mask], y[mask], atol=0.5)
    for name, p in learned.items():
        if ".adapter." not in name:  # a LayerNorm that learned
            base.get_parameter(name).data.copy_(p)
    torch.testing.assert_close(y, by_hand(base, learned, method, tokens, mask), atol=1e-5, rtol=1e-5)


@each(RECIPES)
def test_gradients_reach_what_the_equation_says(model, method, tokens, mask):
    base = copy.deepcopy(model)
    attached(model, method)(tokens, mask)[mask].square().mean().backward()
    learned = {name: p.detach().clone().requires_grad_() for name, p in trainable(model).items()}
    for name, p in learned.items():
        if ".adapter." not in name:
            path, _, kind = name.rpartition(".")
            del base.get_submodule(path)._parameters[kind]
            setattr(base.get_submodule(path), kind, p)
    by_hand(base, learned, method, tokens, mask)[mask].square().mean().backward()
    for name, p in trainable(model).items():
        torch.testing.assert_close(p.grad, learned[name].grad, atol=1e-4, rtol=1e-3)


def test_the_norm_of_a_post_norm_block_acts_twice_for_pfeiffer(tokens):
    model = Transformer(Config(VOCAB, DIM, LAYERS, heads=3, ff=20, context=16, pre_norm=False))
    calls = []
    model.blocks[1].norm2.register_forward_hook(lambda *_: calls.append(1))
    Pfeiffer(SIZE).attach(model)(tokens)
    assert len(calls) == 2


# what is trained


def norms(model):
    return {
        f"{path}.{kind}"
        for path, m in model.named_modules()
        if isinstance(m, nn.LayerNorm)
        for kind in ("weight", "bias")
    }


@each(RECIPES)
def test_exactly_these_parameters_are_trained(model, method):
    base_norms, pre = norms(model), model.config.pre_norm
    method.attach(model)
    if isinstance(method, Houlsby):
        places = [f"blocks.{i}.{sublayer}" for i in range(LAYERS) for sublayer in ("attn", "mlp")]
    elif isinstance(method, Pfeiffer):
        places = [f"blocks.{i}" if pre else f"blocks.{i}.norm2" for i in range(LAYERS)]
    else:
        places = [f"blocks.{i}.mlp" for i in range(LAYERS)]
    expected = {f"{p}.adapter.{letter}.{kind}" for p in places for letter in "DU" for kind in ("weight", "bias")}
    learns_norms = method == Houlsby(SIZE)
    assert set(trainable(model)) == expected | (base_norms if learns_norms else set())
    assert len(base_norms) == 2 * (2 * LAYERS + pre)
    count = len(places) * ONE + (2 * DIM * (2 * LAYERS + pre) if learns_norms else 0)
    assert sum(p.numel() for p in trainable(model).values()) == count
    assert f"trainable: {count:,} of" in summary(model)


@each(RECIPES)
def test_training_leaves_the_base_bit_for_bit(model, method, tokens):
    before, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    attached(model, method, std=0.1).train()
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=0.1)
    started = {name: p.detach().clone() for name, p in trainable(model).items()}
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
    assert all(not torch.equal(p, started[name]) for name, p in trainable(model).items())
    with disabled(model):
        assert same_state(model, before)
    detach(model)
    assert same_state(model, before)
    assert [p.requires_grad for p in model.parameters()] == flags


@each([Houlsby(2), Pfeiffer(2), ParallelAdapter(2)])
def test_it_learns(method):
    class Shift:
        """The answer to each token is the one three further on."""

        def batch(self, size, generator):
            x = torch.randint(VOCAB, (size, 6), generator=generator)
            return Batch(x, (x + 3) % VOCAB)

    model = Transformer(Config(VOCAB, DIM, LAYERS, heads=3, ff=20, context=16))
    history = fit(method.attach(model), Shift(), steps=60, lr=3e-2, batch_size=32, device="cpu", progress=False)
    assert history.loss[-1] < 0.85 * history.loss[0]


# the start


@each([Houlsby(), Pfeiffer()])
def test_the_start_is_near_the_base_and_both_matrices_have_a_gradient(model, method, tokens):
    y = model(tokens)
    method.attach(model)
    moved = (model(tokens) - y).abs().max().item()
    assert 0 < moved < 0.01
    model(tokens).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in trainable(model).values())


def test_the_start_of_the_parallel_adapter_is_the_base_and_D_has_no_gradient_yet(model, tokens):
    y = model(tokens)
    ParallelAdapter().attach(model)
    assert torch.equal(model(tokens), y)
    model(tokens).square().sum().backward()
    for name, p in trainable(model).items():
        assert (p.grad.abs().sum() > 0) == (".U." in name)


def test_a_bottleneck_starts_normal_cut_off_at_two_sigma_with_zero_biases():
    adapter = Bottleneck(torch.ones(400), 100, nn.ReLU())
    for layer in (adapter.D, adapter.U):
        assert 0.0195 < layer.weight.abs().max() <= 0.02
        assert layer.weight.std().item() == pytest.approx(0.0088, rel=0.02)  # of a normal cut off at 2σ: 0.88 σ
        assert not layer.bias.any()


def test_D_of_the_parallel_adapter_starts_with_the_bound_of_its_fan_in():
    model = Transformer(Config(VOCAB, dim=400, layers=1, heads=1, ff=2, context=4))
    D = ParallelAdapter(size=50).attach(model).blocks[0].mlp.adapter.D
    assert 0.99 / math.sqrt(400) < D.weight.abs().max() <= 1 / math.sqrt(400)
    assert not D.bias.any()


# the rest of the house


@each(RECIPES)
def test_there_and_back(model, method, tokens, tmp_path):
    base = copy.deepcopy(model)
    y = attached(model, method)(tokens)
    save(model, tmp_path / "d")
    assert torch.equal(load(tmp_path / "d", base)(tokens), y)
    assert base.attachments[0].method == method
    assert set(trainable(base)) == set(trainable(model))


@each(RECIPES)
def test_merging_is_refused_and_nothing_is_changed(model, method, tokens):
    y = attached(model, method)(tokens)
    with pytest.raises(TypeError, match="cannot be merged"):
        merge(model)
    assert torch.equal(model(tokens), y)


@each(RECIPES)
def test_with_and_without_the_cache_is_the_same(model, method, tokens, mask):
    attached(model, method)
    cache = Cache(LAYERS)
    parts = [model(tokens[:, :4], mask[:, :4], cache), model(tokens[:, 4:], mask[:, 4:], cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1)[mask], model(tokens, mask)[mask], atol=1e-5, rtol=1e-5)
    for m in (None, mask):
        cached, whole = (model.generate(tokens, 6, mask=m, cache=cache) for cache in (True, False))
        assert torch.equal(cached, whole)


@each(RECIPES)
def test_disabled_is_the_base_and_attention_maps_are_still_there(model, method, tokens):
    y = model(tokens)
    z = attached(model, method)(tokens)
    with disabled(model):
        assert torch.equal(model(tokens), y)
    assert torch.equal(model(tokens), z)
    with recording(model) as layers:
        model(tokens)
    assert [tuple(layer.weights.shape) for layer in layers] == [(3, 3, 7, 7)] * LAYERS


@each(RECIPES)
@pytest.mark.parametrize("first", [LoRA(targets=("up", "v")), Full(), None], ids=["LoRA", "Full", "itself"])
def test_it_stands_on_top_of_another_method_and_leaves_it_as_it_was(model, method, first, tokens):
    before = copy.deepcopy(model.state_dict())
    y = attached(model, first or method, std=0.1)(tokens)
    below = set(trainable(model).values())
    method.attach(model, stack=True)
    torch.testing.assert_close(model(tokens), y, atol=0.05, rtol=0)
    assert not below & set(trainable(model).values())  # what was there is frozen now
    stir(model, trainable(model).values(), 0.5)
    assert not torch.allclose(model(tokens), y, atol=0.5)
    assert same_state(detach(model), before)


def test_what_the_norms_moved_is_told(model):
    attached(model, Houlsby(SIZE))
    assert set(updates(model)) == norms(detach(model))


@each(RECIPES)
def test_dropout_there_is_none_and_the_input_is_not_touched(model, method):
    attached(model, method)
    x = torch.randn(2, 4, DIM)
    before = x.clone()
    y = model.blocks[0](x)
    assert torch.equal(x, before)
    assert torch.equal(model.train().blocks[0](x), y)


@each(RECIPES)
def test_new_weights_follow_the_type_of_the_base(model, method, tokens):
    method.attach(model.double())
    assert {p.dtype for p in trainable(model).values()} == {torch.float64}
    assert model(tokens).dtype == torch.float64


def test_labels_are_short():
    assert [str(method) for method in (Houlsby(), Pfeiffer(8), ParallelAdapter(), ParallelAdapter(8, 1.0))] == [
        "Houlsby(size=16)",
        "Pfeiffer(size=8)",
        "ParallelAdapter(size=16)",
        "ParallelAdapter(size=8, scale=1.0)",
    ]


@pytest.mark.parametrize("method", [Houlsby, Pfeiffer, ParallelAdapter])
@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True])
def test_a_bad_size_is_told(method, size):
    with pytest.raises(ValueError, match=f"size.* whole number of at least 1, got {size!r}"):
        method(size=size)


@pytest.mark.parametrize("scale", [0, -4.0, math.inf, math.nan])
def test_a_bad_scale_is_told(scale):
    with pytest.raises(ValueError, match=f"scale must be a number above 0, got {scale}"):
        ParallelAdapter(scale=scale)


@each([Houlsby(), Pfeiffer(), ParallelAdapter()])
def test_what_is_no_transformer_is_told_and_left_as_it_was(method):
    with pytest.raises(ValueError, match=r"there are: 0 \(Linear\)"):
        method.attach(nn.Sequential(nn.Linear(3, 3)))
    net = nn.ModuleDict({"layer": nn.ModuleDict({"attn": nn.Linear(3, 3), "mlp": nn.Linear(3, 3)})})
    with pytest.raises(TypeError, match=r"'layer\.(attn|mlp)' is in a ModuleDict"):
        method.attach(net)
    assert type(net["layer"]["attn"]) is type(net["layer"]["mlp"]) is nn.Linear
    assert not hasattr(net, "attachments")
