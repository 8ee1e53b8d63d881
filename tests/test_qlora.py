"""QLoRA against a quantizer written as a loop, and against its promises: what it stores, merges and keeps."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import trainable
from minipeft.bases import base as shipped
from minipeft.costs import delta_bytes, measure, predict
from minipeft.deltas import load, read, save, updates
from minipeft.methods import LoRA, QLoRA
from minipeft.methods.lora import LoRALinear
from minipeft.methods.qlora import (
    DYNAMIC,
    TYPES,
    QuantizedLinear,
    dequantize,
    levels_of,
    measured_bits,
    predicted_bits,
    quantize,
    rounding_error,
)
from minipeft.tasks import Batch, Mixture
from minipeft.training import evaluate, fit
from minipeft.views import merge
from tests.models import LAYERS, apart, bits, close, make, moved, one, rows, same_bits, stirred

LEVELS = {name: levels_of(name) for name in TYPES}
PUBLISHED = [  # appendix E of the paper
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
]  # fmt: skip


def rounded(tensor, levels, size):
    """Each value of each block by itself: the nearest level times the block's largest magnitude."""
    values, out = tensor.flatten().tolist(), []
    for start in range(0, len(values), size):
        block = values[start : start + size]
        absmax = max(abs(v) for v in block)
        out += [absmax * min(levels.tolist(), key=lambda c: abs(c * absmax - v)) for v in block]
    return torch.tensor(out).view(tensor.shape)


def there_and_back(tensor, quant_type="nf4", size=64, double=True):
    return dequantize(quantize(tensor, quant_type, size, double), tensor.shape, quant_type, size)


def uneven(*shape):
    """Normal values whose rows differ in size, so that it matters which values share a block."""
    return torch.randn(shape) * torch.logspace(-1, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))


# ---- levels -----------------------------------------------------------------------------------------------------


def test_the_quantiles_of_the_normal_distribution_are_the_published_levels():
    torch.testing.assert_close(LEVELS["nf4"], torch.tensor(PUBLISHED), atol=4e-7, rtol=0)


def test_levels_ascend_from_minus_one_to_one_and_zero_is_one_of_them():
    counts = {"nf4": 16, "nf3": 8, "nf2": 4, "int4": 15, "int3": 7, "int2": 3, "fp4": 15}
    assert {name: len(levels) for name, levels in LEVELS.items()} == counts
    for name, levels in LEVELS.items():
        assert (levels.diff() > 0).all()
        assert (levels[0], levels[-1]) == (-1, 1)
        assert (levels == 0).sum() == 1
        assert (levels > 0).sum() - (levels < 0).sum() == name.startswith("nf")
    assert torch.allclose(LEVELS["int4"].diff(), torch.tensor(1 / 7))
    assert torch.equal(6 * LEVELS["fp4"][8:], torch.tensor([0.5, 1, 1.5, 2, 3, 4, 6]))


def test_the_levels_for_absmax_are_fine_where_values_are_large():
    assert len(DYNAMIC) == 256
    assert (DYNAMIC.diff() > 0).all()
    assert {0.0, 1.0} < set(DYNAMIC.tolist())
    assert DYNAMIC[0].item() == pytest.approx(-0.9929687)
    inside = DYNAMIC[(DYNAMIC > 0) & (DYNAMIC < 1)]
    assert [((inside > 10**i) & (inside < 10 ** (i + 1))).sum().item() for i in range(-7, 0)] == [
        2**i for i in range(7)
    ]


def test_nf4_rounds_normal_weights_least_and_small_blocks_round_less():
    W = torch.randn(512, 512)
    errors = {name: rounding_error(W, name, 64, False) ** 2 for name in LEVELS}
    assert errors["nf4"] == pytest.approx(0.0085, abs=2e-4)
    assert errors["fp4"] == pytest.approx(0.0112, abs=2e-4)
    assert errors["int4"] == pytest.approx(0.0116, abs=2e-4)
    assert errors["int4"] < errors["nf3"] < errors["int3"] < errors["nf2"] < errors["int2"]
    by_block = [rounding_error(W, "nf4", size, False) for size in (16, 64, 256, 4096)]
    assert by_block == sorted(by_block)


# ---- there and back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant_type", LEVELS)
@pytest.mark.parametrize(("shape", "size"), [((9, 40), 64), ((7, 9), 64), ((5,), 2), ((3, 5, 7), 6), ((16, 8), 32)])
def test_each_value_goes_to_the_nearest_level_of_its_block(shape, size, quant_type):
    W = uneven(*shape)
    stored = quantize(W, quant_type, size, double_quant=False)
    assert stored["packed"].numel() == math.ceil(W.numel() / 2)
    assert stored["absmax"].numel() == math.ceil(W.numel() / size)
    got = dequantize(stored, shape, quant_type, size)
    torch.testing.assert_close(got, rounded(W, LEVELS[quant_type], size))


def test_two_codes_share_a_byte_and_the_earlier_one_is_above():
    stored = quantize(torch.tensor([[-2.0, 2.0], [0.0, 0.9], [2.0, 0.0]]), double_quant=False)
    assert stored["packed"].dtype == torch.uint8
    assert stored["packed"].tolist() == [0x0F, 0x7C, 0xF7]
    assert quantize(torch.tensor([2.0, -2.0, 2.0]))["packed"].tolist() == [0xF0, 0xF7]  # and a zero to fill it


def test_zeros_stay_zeros():
    W = uneven(6, 64)
    W[2] = 0
    W[4, ::3] = 0
    for double in (False, True):
        for quant_type in LEVELS:
            got = there_and_back(W, quant_type, double=double)
            assert torch.equal(got[2], torch.zeros(64))
            assert not got[4, ::3].any()
            assert got[3].any()
            assert torch.equal(there_and_back(torch.zeros(3, 5), quant_type, double=double), torch.zeros(3, 5))
    assert torch.equal(there_and_back(W, double=False)[3], rounded(W[3], LEVELS["nf4"], 64))


@pytest.mark.parametrize(("shape", "size"), [((40, 30), 2), ((7, 9), 64), ((3, 64), 64), ((64, 40), 4)])
def test_double_quantization_is_quantization_of_what_absmax_differs_from_its_mean(shape, size):
    W = torch.rand(shape) + 1  # absmax far from 0
    once, twice = quantize(W, block_size=size, double_quant=False), quantize(W, block_size=size)
    absmax, mean = once["absmax"], once["absmax"].mean()
    assert torch.equal(twice["packed"], once["packed"])
    assert twice["absmax"].dtype == torch.uint8
    assert twice["absmax"].shape == absmax.shape
    assert len(twice["absmax2"]) == math.ceil(len(absmax) / 256)
    again = mean + rounded(absmax - mean, DYNAMIC, 256)
    assert (again - absmax).abs().max() <= 0.0071 * (absmax - mean).abs().max()
    expected = again.repeat_interleave(size)[: W.numel()].view(shape) * rounded(W, LEVELS["nf4"], size)
    expected /= absmax.repeat_interleave(size)[: W.numel()].view(shape)
    torch.testing.assert_close(there_and_back(W, size=size), expected)


def test_rounding_what_is_rounded_changes_nothing():
    for quant_type in LEVELS:
        once = there_and_back(uneven(20, 30), quant_type, double=False)
        torch.testing.assert_close(there_and_back(once, quant_type, double=False), once)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_scales_and_weights_have_the_type_of_the_tensor(dtype):
    W = torch.randn(30, 64)
    stored = quantize(W.to(dtype))
    assert [t.dtype for t in stored.values()] == [torch.uint8, torch.uint8, dtype, dtype]
    assert dequantize(stored, W.shape).dtype == dtype
    assert rounding_error(W.to(dtype)) == pytest.approx(rounding_error(W), rel=0.05)


# ---- what is stored ---------------------------------------------------------------------------------------------


def test_bits_per_weight_as_predicted():
    assert predicted_bits(64, False) == 4.5
    assert predicted_bits(64, True) == pytest.approx(4.127, abs=1e-4)
    assert predicted_bits(32, False) == 5
    linear = nn.Linear(512, 1024)
    for double in (True, False):
        net = nn.Sequential(QuantizedLinear(linear, double_quant=double), nn.Linear(1024, 3))
        mean = 32 / (512 * 1024) if double else 0
        assert measured_bits(net) == pytest.approx(predicted_bits(64, double) + mean, abs=1e-9)


def test_the_bits_of_the_shipped_base_are_those_predicted_and_a_little():
    assert predicted_bits() < measured_bits(QLoRA().attach(shipped())) < predicted_bits() + 0.01


def test_a_quantized_linear_holds_no_tensor_as_large_as_its_weight_and_nothing_to_train():
    layer = QuantizedLinear(nn.Linear(40, 30).requires_grad_(False))
    held = [*layer.parameters(), *layer.buffers()]
    assert sum(t.numel() * t.element_size() for t in held) == 4 * 30 + 600 + 19 + 4 + 4
    assert set(layer.state_dict()) == {"bias", "packed", "absmax", "mean", "absmax2"}
    assert not any(t.requires_grad for t in held)


def test_memory_is_that_of_lora_but_for_the_weights():
    base, (_, tokens, mask) = make(), rows("left")
    matrices = sum(p.numel() for name, p in base.named_parameters() if p.ndim == 2 and "blocks" in name)
    view, twin = QLoRA().attach(base), LoRA(targets=QLoRA().targets).attach(base)
    ours, lora = (measure(model, Batch(tokens, tokens, mask)) for model in (view, twin))
    assert predict(view).weights == ours.weights
    assert lora.weights - ours.weights == 4 * matrices - measured_bits(view) * matrices / 8
    assert (ours.gradients, ours.optimizer) == (lora.gradients, lora.optimizer)
    assert ours.activations == lora.activations  # no unpacked weight waits for the backward pass


# ---- the layer --------------------------------------------------------------------------------------------------


def adapted(linear, rank=3, alpha=8, **settings):
    """A model of one layer with QLoRA on it and B away from zero."""
    return stirred(QLoRA(rank, alpha, targets=("layer",), **settings), one(linear))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("r", "alpha"), [(3, 8), (5, 2)])
@pytest.mark.parametrize("settings", [{}, {"quant_type": "int3", "block_size": 6, "double_quant": False}], ids=str)
def test_the_layer_is_the_equation_and_so_is_its_gradient(r, alpha, bias, settings):
    linear = nn.Linear(10, 7, bias=bias)
    net, there = adapted(linear, r, alpha, **settings), QLoRA(**settings)
    A, B = net.layer.A, net.layer.B
    assert (A.shape, B.shape) == ((r, 10), (7, r))
    Q = there_and_back(linear.weight.detach(), there.quant_type, there.block_size, there.double_quant)
    assert 0.01 < (Q - linear.weight).abs().max() < 0.2
    x = torch.randn(4, 6, 10, requires_grad=True)
    y, expected = net(x), F.linear(x, Q + alpha / r * B @ A, linear.bias)
    close(y, expected)
    weight = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad((out * weight).sum(), (x, A, B)) for out in (y, expected))
    for got, want in zip(ours, theirs, strict=True):
        close(got, want)


@pytest.mark.parametrize("bias", [True, False])
def test_merging_adds_to_the_rounded_weight_and_gives_a_plain_linear(bias):
    linear, x = nn.Linear(10, 7, bias=bias), torch.randn(4, 10)
    net = adapted(linear, 3, 5)
    merged, Q = merge(net).layer, there_and_back(linear.weight)
    W = Q + 5 / 3 * net.layer.B @ net.layer.A
    assert type(merged) is nn.Linear
    assert not merged.weight.requires_grad
    assert (merged.bias is not None) == bias
    close(merged.weight, W)
    close(merged(x), net(x))
    apart(linear.weight + W - Q, merged.weight, 1e-3)


def test_the_plain_twin_of_a_quantized_linear_is_frozen_and_draws_no_random_numbers():
    layer = QuantizedLinear(nn.Linear(10, 7).requires_grad_(False))
    state = torch.get_rng_state()
    plain, x = layer.merged(), torch.ones(2, 10)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for p in plain.parameters())
    close(plain(x), layer(x))


def test_a_merged_weight_in_4_bits_again_is_rounded_once_more():
    net = adapted(nn.Linear(256, 128))
    W = net.layer.merged().weight
    assert 0.08 < rounding_error(W) < 0.11
    assert rounding_error(net.layer.base.weight, double_quant=False) < 1e-6
    assert rounding_error(W, double_quant=False) == ((there_and_back(W, double=False) - W).norm() / W.norm()).item()
    assert rounding_error(W, "nf2") > rounding_error(W, "nf3") > rounding_error(W)


def test_settings_of_lora_do_as_they_do_there():
    method = QLoRA(2, 6, targets=("0", "1"), dropout=0.3, rank_pattern={"1": 3}, rslora=True, lr_ratio=16)
    net = method.attach(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)))
    assert all(type(layer) is LoRALinear and type(layer.base) is QuantizedLinear for layer in net)
    assert (net[0].A.shape, net[1].A.shape) == ((2, 6), (3, 5))
    assert (net[0].scale, net[1].scale) == (6 / math.sqrt(2), 6 / math.sqrt(3))
    assert net[0].dropout.p == 0.3
    assert {g["lr"] for g in method.groups(net, 1e-3)} == {1e-3, 1.6e-2}


# ---- a whole model ----------------------------------------------------------------------------------------------


def test_quantized_are_the_linear_layers_of_the_blocks_and_no_others():
    base = make()
    view = QLoRA(rank=3).attach(base)
    places = {name.rpartition(".")[0] for name in trainable(view)}
    assert {name for name, m in view.named_modules() if isinstance(m, QuantizedLinear)} == {f"{p}.base" for p in places}
    assert type(view.head) is nn.Linear
    assert not any(isinstance(m, QuantizedLinear) for m in base.modules())


def test_the_start_is_the_quantized_base_and_only_B_has_a_gradient():
    base, twin, tokens = make(), make(), rows()[1]
    with torch.no_grad():
        for linear in [m for m in twin.blocks.modules() if isinstance(m, nn.Linear)]:
            linear.weight.copy_(there_and_back(linear.weight, "nf3"))
    view = QLoRA(quant_type="nf3").attach(base)
    close(view(tokens), twin(tokens))
    apart(view(tokens), base(tokens), 1e-2)
    (view(tokens) ** 2).sum().backward()
    for name, p in trainable(view).items():
        assert p.grad.any() == name.endswith(".B")


def test_training_leaves_the_codes_alone():
    base = shipped("letters-d32")
    view, before = QLoRA().attach(base), bits(base)
    codes = {name: p.clone() for name, p in view.named_parameters() if not p.requires_grad}
    assert sum(p.dtype == torch.uint8 for p in codes.values()) == 2 * 2 * 6
    fit(view, Mixture(), steps=3, lr=3e-2, batch_size=8, device="cpu", progress=False)
    assert all(torch.equal(p, codes[name]) for name, p in view.named_parameters() if name in codes)
    assert same_bits(base, before)


def test_a_delta_is_A_and_B_and_the_codes_follow_from_the_base(tmp_path):
    base, tokens = make(), rows()[1]
    view = stirred(QLoRA(rank=2, quant_type="int3", block_size=32, targets=["q", "up"]), base)
    save(view, tmp_path / "d.safetensors")
    stored = read(tmp_path / "d.safetensors").tensors
    assert set(stored) == set(trainable(view))
    assert sum(t.numel() * 4 for t in stored.values()) == delta_bytes(view)
    assert torch.equal(load(tmp_path / "d.safetensors", base)(tokens), view(tokens))


def test_a_merged_model_computes_what_was_trained():
    view, tokens = stirred(QLoRA(), make()), rows()[1]
    merged = merge(view)
    assert not any(isinstance(m, QuantizedLinear) for m in merged.modules())
    close(merged(tokens), view(tokens), 1e-4)
    moves = updates(view)
    assert len(moves) == LAYERS * 6
    for name, (W, change) in moves.items():
        close(W, there_and_back(make().get_parameter(name)))
        close(merged.get_parameter(name), W + change)


def test_on_another_method_it_quantizes_what_that_made_of_the_weight_and_another_stands_on_it():
    lower, tokens = stirred(LoRA(2, targets=("q",)), make()), rows()[1]
    view = QLoRA(targets=("q", "v")).attach(lower)
    close(view.blocks[0].attn.q.weight, there_and_back(lower.blocks[0].attn.q.weight))
    moved(view, trainable(view).values(), 0.3)
    upper = stirred(LoRA(2, targets=("q", "v")), view)
    merged = merge(upper)
    assert type(merged.blocks[0].attn.q) is nn.Linear
    close(merged(tokens), upper(tokens), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_follows_the_type_of_the_model_before_and_after(dtype):
    x = torch.randn(4, 10)
    before, after = adapted(nn.Linear(10, 7).to(dtype)), adapted(nn.Linear(10, 7))
    y = after(x)
    after.to(dtype)
    for net in (before, after):
        net(x.to(dtype)).sum().backward()
        assert net.layer.A.grad.dtype == net(x.to(dtype)).dtype == dtype
    torch.testing.assert_close(after(x.to(dtype)).float(), y, atol=0.1, rtol=0.05)


# ---- does it matter? --------------------------------------------------------------------------------------------


def test_four_bits_cost_the_toy_base_next_to_nothing_and_two_bits_all_until_lora_mends_it():
    base, loss = shipped(), {}
    for quant_type in ("nf4", "nf3", "nf2"):
        view = QLoRA(quant_type=quant_type).attach(base)
        score = evaluate(view, Mixture(), 200)
        loss[quant_type] = score.loss
        assert score.accuracy > 0.97 if quant_type == "nf4" else score.accuracy < 0.97
    assert score.accuracy < 0.05
    fit(view, Mixture(), steps=25, lr=1e-2, batch_size=16, device="cpu", progress=False)
    assert evaluate(view, Mixture(), 200).loss < loss["nf2"] / 2
    assert loss["nf4"] < loss["nf3"] < loss["nf2"]
