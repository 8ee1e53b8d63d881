"""IA³ against its equations: non-square weights, biases that are not zero, scales far from one, several heads."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import attachments, detach, disabled, merge, trainable, unmerge
from minipeft.bases import base
from minipeft.deltas import load, save, updates
from minipeft.methods import IA3, LoRA
from minipeft.models.transformer import Config, Transformer, attend
from minipeft.tasks import task
from minipeft.training import fit

DIM, FF, LAYERS, VOCAB, HEADS = 12, 20, 2, 11, 3
OUT = IA3(outputs=("layer",), inputs=())
INTO = IA3(outputs=(), inputs=("layer",))


@pytest.fixture
def model():
    model = Transformer(Config(vocab=VOCAB, dim=DIM, heads=HEADS, ff=FF, layers=LAYERS, context=16)).eval()
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


def one(method, bias=True):
    return stirred(nn.ModuleDict({"layer": nn.Linear(5, 7, bias=bias)}), method)


def state(model):
    return {name: (p, p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}


def same(model, before):
    now = state(model)
    return list(now) == list(before) and all(
        now[n][0] is p and torch.equal(now[n][1], value) and now[n][2] == flag for n, (p, value, flag) in before.items()
    )


@pytest.mark.parametrize("bias", [True, False])
def test_an_output_is_scaled_with_its_bias(bias):
    net, x = one(OUT, bias), torch.randn(4, 6, 5)
    l, W, b = net["layer"].l, net["layer"].weight, net["layer"].bias
    assert l.shape == (7,)
    y = l * F.linear(x, W, b)
    torch.testing.assert_close(net["layer"](x), y)
    merge(net)
    torch.testing.assert_close(net["layer"].weight, torch.diag(l) @ W)
    torch.testing.assert_close(net["layer"](x), y)
    assert (net["layer"].bias is None) == (not bias)
    if bias:
        torch.testing.assert_close(net["layer"].bias, l * b)


@pytest.mark.parametrize("bias", [True, False])
def test_an_input_is_scaled_and_the_bias_is_not(bias):
    net, x = one(INTO, bias), torch.randn(4, 6, 5)
    l, W, b = net["layer"].l, net["layer"].weight, net["layer"].bias
    assert l.shape == (5,)
    y = F.linear(l * x, W, b)
    torch.testing.assert_close(net["layer"](x), y)
    merge(net)
    torch.testing.assert_close(net["layer"].weight, W @ torch.diag(l))
    torch.testing.assert_close(net["layer"](x), y)
    assert net["layer"].bias is b


def test_keys_values_and_the_middle_of_the_mlp_are_scaled(model):
    stirred(model, IA3())
    block, x = model.blocks[1], torch.randn(2, 5, DIM)
    a, m = block.attn, block.mlp

    def heads(t):
        return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def linear(module, x):
        return x @ module.weight.T + module.bias

    q, k, v = linear(a.q, x), a.k.l * linear(a.k, x), a.v.l * linear(a.v, x)
    y, _ = attend(heads(q), heads(k), heads(v), torch.ones(5, 5, dtype=torch.bool).tril())
    torch.testing.assert_close(a(x), linear(a.o, y.transpose(1, 2).flatten(2)), atol=1e-4, rtol=1e-4)
    middle = m.down.l * F.gelu(linear(m.up, x))
    torch.testing.assert_close(m(x), linear(m.down, middle), atol=1e-4, rtol=1e-4)


def test_behind_up_it_would_be_another_method(model):
    x, l = torch.randn(2, 5, DIM), torch.randn(FF)
    answers = []
    for method in (IA3(outputs=(), inputs=("down",)), IA3(outputs=("up",), inputs=())):
        method.attach(model)
        with torch.no_grad():
            for p in trainable(model).values():
                p.copy_(l)
        answers.append(model.blocks[0].mlp(x))
        detach(model)
    assert not torch.allclose(*answers, atol=0.1)  # φ(l ⊙ z) is not l ⊙ φ(z)


def test_exactly_three_vectors_for_each_layer_are_trained(model):
    IA3().attach(model)
    names = {f"blocks.{i}.{name}.l" for i in range(LAYERS) for name in ("attn.k", "attn.v", "mlp.down")}
    assert set(trainable(model)) == names
    assert sum(p.numel() for p in trainable(model).values()) == LAYERS * (2 * DIM + FF)


def test_the_start_is_the_base_exactly_and_every_vector_has_a_gradient(model, tokens):
    y = model(tokens)
    IA3().attach(model)
    assert torch.equal(model(tokens), y)
    assert all(torch.equal(l, torch.ones_like(l)) for l in trainable(model).values())
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    assert all(l.grad.abs().sum() > 0 for l in trainable(model).values())
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_detach_gives_the_base_back_bit_for_bit(model, tokens):
    model.blocks[0].attn.k.requires_grad_(False)
    before, y = state(model), model(tokens)
    stirred(model, IA3())
    assert not torch.allclose(model(tokens), y, atol=1e-2)
    with disabled(model):
        assert torch.equal(model(tokens), y)
    assert same(detach(model), before)


def test_merging_is_undone_exactly_even_where_a_scale_is_zero(model, tokens):
    before = state(model)
    stirred(model, IA3())
    with torch.no_grad():
        for l in trainable(model).values():
            l[::2] = 0
    y = model(tokens)
    torch.testing.assert_close(merge(model)(tokens), y, atol=1e-4, rtol=1e-4)
    assert set(dict(model.named_parameters())) == set(before)  # a plain model
    assert not model.blocks[0].attn.k.weight[0].any()
    assert torch.equal(unmerge(model)(tokens), y)
    assert same(detach(model), before)


def test_what_moved_tells_of_weights_and_biases(model):
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    merge(stirred(model, IA3()))
    new = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved = updates(unmerge(model))
    assert set(moved) == {name for name in old if not torch.equal(old[name], new[name])}
    assert {name.split(".", 2)[2] for name in moved} == {
        "attn.k.weight", "attn.k.bias", "attn.v.weight", "attn.v.bias", "mlp.down.weight"
    }  # fmt: skip
    for name, (W, change) in moved.items():
        assert torch.equal(W, old[name])
        torch.testing.assert_close(change, new[name] - old[name])


@pytest.mark.parametrize("ours_first", [True, False])
def test_with_lora_below_or_above_it_merges_to_what_it_computes(ours_first, model, tokens):
    lora, before = LoRA(targets=("k", "down"), rank=2), state(model)
    methods = [IA3(), lora] if ours_first else [lora, IA3()]
    for method in methods:
        stirred(model, method, stack=True)
    y = model(tokens).double()
    torch.testing.assert_close(merge(model)(tokens).double(), y, atol=1e-3, rtol=1e-3)
    assert same(detach(unmerge(model)), before)


@pytest.mark.parametrize("method", [IA3(), IA3(outputs=("o", "up"), inputs=("q",)), IA3(inputs=()), IA3(outputs=())])
def test_there_and_back(model, tokens, tmp_path, method):
    other = copy.deepcopy(model)
    y = stirred(model, method)(tokens)
    size = save(model, tmp_path / "d")
    assert size < 4 * sum(p.numel() for p in trainable(model).values()) + 2000
    assert torch.equal(load(tmp_path / "d", other)(tokens), y)
    assert set(trainable(other)) == set(trainable(model))
    assert attachments(other)[0].method == method


def test_it_learns_and_the_base_does_not():
    model = base()
    before = state(model)
    IA3().attach(model)
    history = fit(model, task("reverse+blue"), steps=30, lr=1e-1, batch_size=16, device="cpu", progress=False)
    assert sum(history.loss[-5:]) < 0.7 * sum(history.loss[:5])
    assert same(detach(model), before)


def test_weight_decay_does_not_draw_the_scales_to_zero(model):
    method = IA3()
    method.attach(model)
    groups = method.groups(model, 0.02)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0}
    assert {g["lr"] for g in optimizer.param_groups} == {0.02}
    assert {p for g in groups for p in g["params"]} == set(trainable(model).values())


def test_generation_with_the_cache_and_without_gives_the_same(model):
    tokens, mask = torch.randint(VOCAB, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]).bool()
    plain = model.generate(tokens, 8, mask)
    stirred(model, IA3())
    assert torch.equal(model.generate(tokens, 8, mask), model.generate(tokens, 8, mask, cache=False))
    assert not torch.equal(model.generate(tokens, 8, mask), plain)


@pytest.mark.parametrize("method", [OUT, INTO])
def test_the_input_is_not_touched_and_new_weights_follow_the_type_of_the_base(method):
    net = stirred(nn.ModuleDict({"layer": nn.Linear(5, 7)}).double(), method)
    x = torch.randn(3, 5).double()
    before = x.clone()
    assert net["layer"](x).dtype == net["layer"].l.dtype == torch.float64
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"outputs": "k"}, "tuples of names .* got 'k'"),
        ({"inputs": lambda path, module: True}, "tuples of names"),
        ({"outputs": (), "inputs": ()}, "both empty"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        IA3(**settings)


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        (IA3(outputs=("attn.k",), inputs=("k", "down")), ValueError, "blocks.0.attn.k, blocks.1.attn.k: named both"),
        (IA3(outputs=("norm1",)), TypeError, "'blocks.0.norm1' is a LayerNorm"),
        (IA3(outputs=("k.weight",)), TypeError, "'blocks.0.attn.k.weight' is a Parameter"),
        (IA3(inputs=("wo",)), ValueError, "'wo'; there are"),
    ],
)
def test_a_recipe_that_does_not_fit_is_told_and_leaves_the_model_as_it_was(model, method, error, says):
    before = state(model)
    with pytest.raises(error, match=says):
        method.attach(model)
    assert same(model, before)
    assert attachments(model) == []
