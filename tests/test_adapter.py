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

from minipeft.attach import detach, trainable
from minipeft.deltas import updates
from minipeft.methods import Houlsby, ParallelAdapter, Pfeiffer
from minipeft.methods.adapter import Bottleneck
from minipeft.models.transformer import Cache, attention_mask, recording
from tests.models import DIM, LAYERS, T, apart, close, count, make, rows, stirred

METHODS = [Houlsby(5), Houlsby(5, norms=False), Pfeiffer(5), ParallelAdapter(5, scale=2.5)]
EACH = pytest.mark.parametrize("method", METHODS, ids=str)


@pytest.fixture(params=["pre-norm", "post-norm"])
def base(request):
    return make(None, causal=request.param == "pre-norm").double()


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

    cache = Cache(LAYERS)
    cache.extend(tokens, mask)
    x, visible = base.embed(tokens, cache), attention_mask(T, T, base.config.causal, mask)
    for i, block in enumerate(base.blocks):
        path = f"blocks.{i}"
        if base.config.pre_norm:
            f = block.attn(block.norm1(x), visible)
            x = x + f + (A(path + ".attn", f) if isinstance(method, Houlsby) else 0)
            n = block.norm2(x)
            f = block.mlp(n)
            x = x + f + correction(place.format(path), x, f, n, block.norm2)
        else:
            f = block.attn(x, visible)
            x = block.norm1(x + f + (A(path + ".attn", f) if isinstance(method, Houlsby) else 0))
            f = block.mlp(x)
            x = block.norm2(x + f + correction(place.format(path), x, f, x, block.norm2))
    return base.head(base.norm(x))


@EACH
def test_logits_and_gradients_of_the_whole_model_are_the_equation(base, method):
    view, (_, tokens, mask) = stirred(method, base), rows("left")
    logits, learned = view(tokens, mask), {n: p.detach().clone().requires_grad_() for n, p in trainable(view).items()}
    twin = copy.deepcopy(base)
    for name, p in learned.items():
        if ".adapter." not in name:  # a LayerNorm that learned
            path, _, kind = name.rpartition(".")
            del twin.get_submodule(path)._parameters[kind]
            setattr(twin.get_submodule(path), kind, p)
    expected = by_hand(twin, learned, method, tokens, mask)
    apart(base(tokens, mask)[mask], logits[mask], 0.5)
    close(logits, expected, 1e-9)
    for y in (logits, expected):
        y[mask].square().mean().backward()
    for name, p in trainable(view).items():
        close(p.grad, learned[name].grad, 1e-9)


def test_the_norm_of_a_post_norm_block_acts_twice_for_pfeiffer():
    view, calls = Pfeiffer(5).attach(make(None, causal=False)), []
    view.blocks[1].norm2.base.register_forward_hook(lambda *_: calls.append(1))
    view(rows()[1])
    assert len(calls) == 2


def norms(model):
    kinds = [path for path, m in model.named_modules() if isinstance(m, nn.LayerNorm)]
    return {f"{path}.{kind}" for path in kinds for kind in ("weight", "bias")}


def test_houlsby_trains_every_layer_norm_too(base):
    view, without = stirred(Houlsby(5), base), Houlsby(5, norms=False).attach(base)
    assert set(trainable(view)) == set(trainable(without)) | norms(base)
    assert count(view) == count(without) + 2 * DIM * (2 * LAYERS + base.config.pre_norm)
    assert set(updates(view)) == norms(detach(view))


@pytest.mark.parametrize("method", [Houlsby(), Pfeiffer()], ids=str)
def test_the_start_is_near_the_base_and_both_matrices_have_a_gradient(base, method):
    view, tokens = method.attach(base), rows()[1]
    assert 0 < (view(tokens) - base(tokens)).abs().max() < 0.01
    view(tokens).square().sum().backward()
    assert all(p.grad.any() for p in trainable(view).values())


def test_a_bottleneck_starts_normal_cut_off_at_two_sigma_with_zero_biases():
    adapter = Bottleneck(torch.ones(400), 100, nn.ReLU())
    for layer in (adapter.D, adapter.U):
        assert 0.0195 < layer.weight.abs().max() <= 0.02
        assert layer.weight.std().item() == pytest.approx(0.0088, rel=0.02)  # of a normal cut off at 2σ: 0.88 σ
        assert not layer.bias.any()


def test_D_of_the_parallel_adapter_starts_with_the_bound_of_its_fan_in():
    D = ParallelAdapter(size=600).attach(make()).blocks[0].mlp.adapter.D
    assert 0.99 / math.sqrt(DIM) < D.weight.abs().max() <= 1 / math.sqrt(DIM)
    assert not D.bias.any()


@EACH
def test_attention_maps_are_still_there_and_dropout_there_is_none(base, method):
    view, tokens = stirred(method, base), rows()[1]
    logits = view(tokens)
    with recording(view) as layers:
        close(view(tokens), logits)
    assert [tuple(layer.weights.shape) for layer in layers] == [(3, 3, T, T)] * LAYERS
    assert torch.equal(view.train()(tokens), logits)
