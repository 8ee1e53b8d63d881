"""AdapterFusion against its equation, and the way of three adapters from their own deltas into one that needs none.

Pre-norm and post-norm blocks, three heads, a padded row, all weights away from their start.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from minipeft.attach import detach, disabled, merge, summary, trainable
from minipeft.deltas import DeltaError, load, read, save
from minipeft.methods import AdapterFusion, Houlsby, LoRA, Pfeiffer
from minipeft.methods.adapter_fusion import Fusion, fusions
from minipeft.models.transformer import Cache, Config, Transformer
from minipeft.tasks import Batch
from minipeft.training import evaluate, fit

VOCAB, DIM, LAYERS, SIZE, N = 11, 12, 2, 5, 3


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
    return torch.arange(7) >= torch.tensor([0, 3, 1])[:, None]


@pytest.fixture
def paths(model, tmp_path):
    """Deltas of three Pfeiffer adapters, far from their start."""
    found = [tmp_path / f"task{n}.safetensors" for n in range(N)]
    for path in found:
        Pfeiffer(SIZE).attach(model)
        save(stir(model, trainable(model).values(), 0.5), path)
        detach(model)
    return found


def stir(model, parameters, std):
    with torch.no_grad():
        for p in parameters:
            p += std * torch.randn_like(p)
    return model


def fused(model, paths, size=SIZE):
    """The fusion of these adapters, at its start."""
    method = AdapterFusion(len(paths), size)
    method.attach(model)
    method.fill(model, [read(path, model) for path in paths])
    return model


def same_state(model, before):
    now = model.state_dict()
    return list(now) == list(before) and all(torch.equal(now[name], t) for name, t in before.items())


# the equation


def by_hand(base, adapters, learned, tokens, mask):
    """Logits and the attention of each layer; adapters: the tensors of their deltas, learned: of the fusion."""

    def o(where, h):
        z = []
        for t in adapters:
            D, b_D, U, b_U = (t[f"{where}.adapter.{name}"] for name in ("D.weight", "D.bias", "U.weight", "U.bias"))
            z.append(F.relu(h @ D.T + b_D) @ U.T + b_U)
        W = {name: learned[f"{where}.fusion.{name}.weight"] for name in ("query", "key", "value")}
        q = h @ W["query"].T + learned[f"{where}.fusion.query.bias"]
        scores = [(q * (z_t @ W["key"].T + learned[f"{where}.fusion.key.bias"])).sum(-1) for z_t in z]
        most = torch.stack(scores).amax(0)
        whole = sum((s - most).exp() for s in scores)
        α = [(s - most).exp() / whole for s in scores]
        maps.append(torch.stack(α, dim=-1))
        return sum(α_t[..., None] * (z_t @ W["value"].T) for α_t, z_t in zip(α, z, strict=True))

    maps = []
    x, _ = base.embed(tokens, None, mask)
    for i, block in enumerate(base.blocks):
        if base.config.pre_norm:
            x = block(x, mask)
            x = x + o(f"blocks.{i}", x)
        else:
            x = block.norm1(x + block.attn(x, mask))
            s = x + block.mlp(x)
            x = block.norm2(s + o(f"blocks.{i}.norm2", block.norm2(s)))
    return base.head(base.norm(x)), maps


def test_logits_gradients_and_attention_are_the_equation(model, paths, tokens, mask):
    base = copy.deepcopy(model)
    stir(fused(model, paths), trainable(model).values(), 0.06)
    y = model(tokens, mask)
    learned = {name: p.detach().clone().requires_grad_() for name, p in trainable(model).items()}
    expected, maps = by_hand(base, [read(path).tensors for path in paths], learned, tokens, mask)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    for fusion, α in zip(fusions(model).values(), maps, strict=True):
        assert fusion.weights.shape == (3, 7, N)
        assert not fusion.weights.requires_grad
        torch.testing.assert_close(fusion.weights, α)
        assert α.std(dim=1).mean() > 0.005, "each token asks for itself"
    y[mask].square().mean().backward()
    expected[mask].square().mean().backward()
    for name, p in trainable(model).items():
        torch.testing.assert_close(p.grad, learned[name].grad, atol=1e-4, rtol=1e-3)


def test_the_fusion_of_one_adapter_starts_as_that_adapter(model, paths, tokens):
    alone = load(paths[1], copy.deepcopy(model))(tokens)
    torch.testing.assert_close(fused(model, paths[1:2])(tokens), alone, atol=1e-5, rtol=1e-5)


def test_the_order_of_the_adapters_does_not_matter_at_the_start(model, paths, tokens):
    torch.manual_seed(5)
    y = fused(copy.deepcopy(model), paths)(tokens)
    torch.manual_seed(5)
    torch.testing.assert_close(fused(model, paths[::-1])(tokens), y, atol=1e-5, rtol=1e-5)


def test_the_start_asks_all_alike_and_leaves_what_they_say(model):
    fusion = Fusion(torch.ones(200), N, SIZE)
    assert torch.equal(fusion.value.weight, torch.eye(200))
    for layer in (fusion.query, fusion.key):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert not layer.bias.any()
    assert fusion.value.bias is None


def test_without_adapters_it_is_the_base_and_training_is_refused(model, paths, tokens):
    y = model(tokens)
    method = AdapterFusion(N, SIZE)
    method.attach(model)
    assert torch.equal(model(tokens), y)
    with pytest.raises(RuntimeError, match=r"AdapterFusion\(adapters=3, size=5\) has empty places.*fill"):
        fit(model, Shift(1), steps=1, lr=1e-3, device="cpu", progress=False)
    method.fill(model, [read(path, model) for path in paths])
    with torch.no_grad():
        fusions(model)[next(iter(fusions(model)))].U[1] = 0  # one place in one layer
    with pytest.raises(RuntimeError, match="empty places"):
        method.groups(model, 1e-3)


# what is trained


def test_exactly_the_fusion_is_trained(model, paths):
    fused(model, paths)
    places = [f"blocks.{i}" if model.config.pre_norm else f"blocks.{i}.norm2" for i in range(LAYERS)]
    names = ("query.weight", "query.bias", "key.weight", "key.bias", "value.weight")
    assert set(trainable(model)) == {f"{place}.fusion.{name}" for place in places for name in names}
    assert f"trainable: {LAYERS * (3 * DIM**2 + 2 * DIM):,} of" in summary(model)


def test_training_leaves_base_and_adapters_bit_for_bit(model, paths, tokens):
    before = copy.deepcopy(model.state_dict())
    fused(model, paths).train()
    adapters = {name: t.clone() for name, t in model.named_buffers()}
    started = {name: p.detach().clone() for name, p in trainable(model).items()}
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        assert all(p.grad.abs().sum() > 0 for p in trainable(model).values())
        optimizer.step()
    assert all(not torch.equal(p, started[name]) for name, p in trainable(model).items())
    assert len(adapters) == 4 * LAYERS
    assert all(torch.equal(t, adapters[name]) for name, t in model.named_buffers())
    with disabled(model):
        assert same_state(model, before)
    assert same_state(detach(model), before)


def test_the_penalty_is_the_distance_of_the_values_from_the_identity(model, paths):
    fused(model, paths)
    method = AdapterFusion(N, SIZE, regularization=0.3)
    assert method.regularizer(model) == 0
    values = [fusion.value.weight for fusion in fusions(model).values()]
    stir(model, trainable(model).values(), 0.3)
    penalty = method.regularizer(model)
    expected = 0.3 * sum((W - torch.eye(DIM)).norm() ** 2 for W in values)
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    for W in values:
        torch.testing.assert_close(W.grad, 0.6 * (W - torch.eye(DIM)).detach())
    assert AdapterFusion(N, SIZE, regularization=0).regularizer(model) == 0


class Shift:
    """The answer to each token is the one `by` further on."""

    def __init__(self, by):
        self.by = by

    def batch(self, size, generator):
        x = torch.randint(VOCAB, (size, 6), generator=generator)
        return Batch(x, (x + self.by) % VOCAB)


def test_two_adapters_learned_apart_are_fused(tmp_path):
    base = Transformer(Config(VOCAB, DIM, LAYERS, heads=3, ff=20, context=16))
    settings = {"lr": 3e-2, "batch_size": 32, "device": "cpu", "progress": False}
    paths = [tmp_path / "1", tmp_path / "2"]
    for path, task in zip(paths, (Shift(1), Shift(2)), strict=True):
        Pfeiffer(4).attach(base)
        fit(base, task, steps=60, **settings)
        save(base, path)
        detach(base)
    fused(base, paths, size=4)
    before = evaluate(base, Shift(1), 200).loss
    fit(base, Shift(1), steps=20, **settings)
    after = evaluate(base, Shift(1), 200).loss
    assert after < 0.85 * before
    with disabled(base):
        assert after < 0.85 * evaluate(base, Shift(1), 200).loss


# from deltas to one delta


def test_the_delta_of_a_fusion_needs_no_other(model, paths, tokens, tmp_path):
    base = copy.deepcopy(model)
    y = stir(fused(model, paths), trainable(model).values(), 0.3)(tokens)
    save(model, tmp_path / "fusion")
    for path in paths:
        path.unlink()
    assert torch.equal(load(tmp_path / "fusion", base)(tokens), y)
    assert base.attachments[0].method == AdapterFusion(N, SIZE)
    assert set(trainable(base)) == set(trainable(model))
    sizes = [t.numel() for t in load_file(tmp_path / "fusion").values()]
    assert sum(sizes) == LAYERS * (3 * DIM**2 + 2 * DIM + N * (2 * DIM * SIZE + SIZE + DIM))
    base.attachments[0].method.groups(base, 1e-3)  # it may go on learning


def test_fill_copies(model, paths, tokens):
    method = AdapterFusion(N, SIZE)
    method.attach(model)
    deltas = [read(path, model) for path in paths]
    method.fill(model, deltas)
    y = model(tokens)
    for delta in deltas:
        for t in delta.tensors.values():
            t.zero_()
    assert torch.equal(model(tokens), y)


def test_what_cannot_be_fused_is_told_and_nothing_is_filled(model, paths, tmp_path):
    def delta(method, base=model):
        base = detach(copy.deepcopy(base))
        save(method.attach(base), tmp_path / "other")
        return read(tmp_path / "other")

    deltas = [read(path, model) for path in paths]
    deeper = Transformer(Config(VOCAB, DIM, LAYERS + 1, heads=3, ff=20, context=16, pre_norm=model.config.pre_norm))
    wider = Transformer(Config(VOCAB, 15, LAYERS, heads=3, ff=20, context=16, pre_norm=model.config.pre_norm))
    method = AdapterFusion(N, SIZE)
    with pytest.raises(RuntimeError, match="not attached"):
        method.fill(model, deltas)
    method.attach(model)
    with pytest.raises(RuntimeError, match="not attached"):
        AdapterFusion(N + 1, SIZE).fill(model, deltas)
    for bad, says in [
        (deltas[:2], "has places for 3 adapters, got 2"),
        ([*deltas, deltas[0]], "has places for 3 adapters, got 4"),
        ([*deltas[:2], delta(LoRA())], r"deltas of Pfeiffer\(size=5\); number 2 is LoRA\(rank=4\)"),
        ([*deltas[:2], delta(Houlsby(SIZE))], r"number 2 is Houlsby\(size=5\)"),
        ([delta(Pfeiffer(4)), *deltas[:2]], r"number 0 is Pfeiffer\(size=4\)"),
        ([*deltas[:2], delta(Pfeiffer(SIZE), deeper)], "number 2 is of another base"),
        ([*deltas[:2], delta(Pfeiffer(SIZE), wider)], "number 2 is of another base"),
    ]:
        with pytest.raises(ValueError, match=says):
            method.fill(model, bad)
        assert not any(t.any() for _, t in model.named_buffers())


def test_an_adapter_of_a_base_of_the_same_shape_is_told_when_it_is_read(model, paths):
    with torch.no_grad():
        model.blocks[0].mlp.up.bias[0] += 1e-6
    with pytest.raises(DeltaError, match="belongs to another base"):
        read(paths[0], model)
    assert read(paths[0]).method == Pfeiffer(SIZE)


# the rest of the house


def test_with_and_without_the_cache_is_the_same(model, paths, tokens, mask):
    stir(fused(model, paths), trainable(model).values(), 0.3)
    cache = Cache(LAYERS)
    parts = [model(tokens[:, :4], mask[:, :4], cache), model(tokens[:, 4:], mask[:, 4:], cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1)[mask], model(tokens, mask)[mask], atol=1e-5, rtol=1e-5)
    for m in (None, mask):
        cached, whole = (model.generate(tokens, 6, mask=m, cache=cache) for cache in (True, False))
        assert torch.equal(cached, whole)


def test_merging_is_refused_and_disabled_is_the_base(model, paths, tokens):
    y = model(tokens)
    z = fused(model, paths)(tokens)
    with pytest.raises(TypeError, match="cannot be merged"):
        merge(model)
    assert torch.equal(model(tokens), z)
    with disabled(model):
        assert torch.equal(model(tokens), y)


def test_it_stands_on_top_of_another_method(model, paths, tokens):
    before = copy.deepcopy(model.state_dict())
    deltas = [read(path, model) for path in paths]
    LoRA(targets=("up", "v")).attach(model)
    method = AdapterFusion(N, SIZE)
    method.attach(model, stack=True)
    method.fill(model, deltas)
    assert len(trainable(model)) == 5 * LAYERS
    LoRA(targets=("up",)).attach(model, stack=True)
    assert list(fusions(model)) == [s.path for s in model.attachments[1].swaps]
    assert same_state(detach(model), before)


def test_new_weights_follow_the_type_of_the_base(model, tokens):
    AdapterFusion(N, SIZE).attach(model.double())
    assert {t.dtype for t in [*trainable(model).values(), *model.buffers()]} == {torch.float64}
    assert model(tokens).dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"adapters": 0}, "adapters must be a whole number of at least 1, got 0"),
        ({"adapters": ("a", "b")}, "adapters must be a whole number"),
        ({"size": 2.5}, "size must be a whole number of at least 1, got 2.5"),
        ({"regularization": -0.1}, "at least 0, got -0.1"),
        ({"regularization": math.inf}, "at least 0, got inf"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        AdapterFusion(**settings)


def test_what_is_no_transformer_is_told():
    with pytest.raises(ValueError, match=r"there are: 0 \(Linear\)"):
        AdapterFusion().attach(nn.Sequential(nn.Linear(3, 3)))
    net = nn.ModuleDict({"layer": nn.ModuleDict({"mlp": nn.Linear(3, 3)})})
    with pytest.raises(TypeError, match=r"'layer\.mlp' is in a ModuleDict"):
        AdapterFusion().attach(net)
