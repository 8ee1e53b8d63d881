"""Our quantizer stores the bytes that bitsandbytes stores, and our QLoRA computes what `peft` computes on them.

The library's CPU kernels constrain the shapes: for an even width above 32 that is no multiple of 64 they unpack wrongly
(a test shows it), so whatever goes through them here is 64, 128 or 192 wide.
"""

import pytest
import torch
from bitsandbytes import functional as library
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from torch import nn

from minipeft.attach import detach, trainable
from minipeft.methods.qlora import (
    DYNAMIC,
    QLoRA,
    QuantizedLinear,
    decode,
    dequantize,
    levels_of,
    quantize,
    rounding_error,
)
from minipeft.views import merge
from tests.models import apart, count, one

SHAPES = [(64, 64), (128, 192), (3, 64), (1, 128), (7, 9), (5,), (33, 31), (6, 96)]
PAIRS = [(3, 5), (4, 1)]  # (r, α)


def uneven(*shape):
    """Normal values whose rows differ in size, a block of them zero where there is room for it."""
    W = torch.randn(shape) * torch.logspace(-1, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    if W.numel() > 128:
        W.view(-1)[64:128] = 0
    return W


# ---- levels -----------------------------------------------------------------------------------------------------


def test_levels_are_those_of_the_library(close):
    close(levels_of("nf4"), library.get_4bit_type("nf4", device="cpu"), 4e-7)
    assert torch.equal(DYNAMIC, library.create_dynamic_map())


def test_fp4_is_e2m1_here_and_a_table_of_its_own_in_the_library():
    theirs = library.get_4bit_type("fp4", device="cpu").unique()  # 0 is in it twice
    ours = levels_of("fp4")
    assert len(ours) == len(theirs) == 15
    assert 12 * theirs[8:] == pytest.approx([0.0625, 2, 3, 4, 6, 8, 12])
    assert 6 * ours[8:] == pytest.approx([0.5, 1, 1.5, 2, 3, 4, 6])
    W = torch.randn(256, 256)
    error = (library.dequantize_4bit(*library.quantize_4bit(W, quant_type="fp4")) - W).norm() / W.norm()
    assert rounding_error(W, "nf4") < rounding_error(W, "fp4", double_quant=False) < error - 0.01


# ---- bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_packed_bytes_and_absmax_are_equal(shape, size, close):
    W = uneven(*shape)
    packed, state = library.quantize_4bit(W, blocksize=size, quant_type="nf4")
    ours = quantize(W, "nf4", size, double_quant=False)
    assert torch.equal(ours["packed"], packed.flatten())
    assert torch.equal(ours["absmax"], state.absmax)
    expected = _dequantize_4bit_compute(packed.flatten(), state.absmax, state.code, size, shape, torch.float32)
    close(dequantize(ours, shape, "nf4", size), expected)


@pytest.mark.parametrize("shape", [(64, 64), (128, 192), (3, 64), (200, 128)], ids=str)
@pytest.mark.parametrize("double", [False, True])
def test_the_unpacked_weight_is_equal(shape, double, close):
    W = uneven(*shape)
    theirs = library.dequantize_4bit(*library.quantize_4bit(W, quant_type="nf4", compress_statistics=double))
    close(dequantize(quantize(W, double_quant=double), shape), theirs)


def test_the_library_unpacks_other_widths_wrongly_on_some_processors(close):
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("the kernel that is wrong needs AVX512")
    W = torch.randn(6, 96)
    theirs = library.dequantize_4bit(*library.quantize_4bit(W, quant_type="nf4"))
    assert rounding_error(W, double_quant=False) < 0.12
    assert (theirs - W).norm() / W.norm() > 0.2


def test_double_quantization_is_equal_but_for_near_ties(close):
    """The library's CPU kernel looks the level up on a grid of 2⁻¹⁵, so its level may be farther away by that much, in
    units of the scale; ours is the nearest."""
    W = torch.randn(1000, 1024)
    packed, state = library.quantize_4bit(W, quant_type="nf4", compress_statistics=True)
    ours = quantize(W)
    assert torch.equal(ours["packed"], packed.flatten())
    close(ours["mean"], state.offset, 1e-7)
    close(ours["absmax2"], state.state2.absmax, 1e-7)
    assert (ours["absmax"] != state.absmax).float().mean() < 0.005
    wanted = quantize(W, double_quant=False)["absmax"] - ours["mean"]
    mine = (decode(ours["absmax"], ours["absmax2"], DYNAMIC, 256) - wanted).abs()
    theirs = (library.dequantize_blockwise(state.absmax, state.state2) - wanted).abs()
    grid = 2**-15 * ours["absmax2"].max()
    assert (mine <= theirs + 1e-7).all()
    assert (theirs <= mine + grid).all()


@pytest.mark.parametrize("double", [False, True])
def test_a_layer_weighs_the_same(double):
    linear = nn.Linear(128, 192)
    state = quantized(linear, double).weight.quant_state
    theirs = [quantized(linear, double).weight.data, state.absmax]
    if double:
        theirs += [state.offset, state.state2.absmax]
    ours = QuantizedLinear(linear, double_quant=double)
    assert [t.numel() * t.element_size() for name, t in ours.named_parameters() if name != "bias"] == [
        t.numel() * t.element_size() for t in theirs
    ]


# ---- the layer with LoRA ----------------------------------------------------------------------------------------


def quantized(linear, double):
    """The library's layer with the weights of ours."""
    settings = {"compute_dtype": torch.float32, "compress_statistics": double, "quant_type": "nf4"}
    theirs = Linear4bit(linear.in_features, linear.out_features, linear.bias is not None, **settings)
    theirs.load_state_dict(linear.state_dict())
    return theirs.to("cpu")  # here it quantizes


def attach_both(linear, rank, alpha, double, learned):
    """Our QLoRA and peft's LoRA on Linear4bit, with the same random A and B; and what peft trains, under our names."""
    model = one(quantized(linear, double))
    model.is_loaded_in_4bit = True  # else peft takes the layer for a plain one
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["layer"], init_lora_weights=False)
    theirs = get_peft_model(model, config).train()  # eval may pack the weight anew, in bfloat16
    ours = QLoRA(rank, alpha, ("layer",), double_quant=double).attach(one(linear))
    for name, p in learned(theirs).items():
        trainable(ours)[name].data.copy_(p)
    ours.layer.base.absmax.data.copy_(model.layer.base_layer.weight.quant_state.absmax)  # near ties are not the point
    return ours, theirs, learned(theirs)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rank", "alpha"), PAIRS)
def test_forward_gradients_and_parameter_count(rank, alpha, bias, double, learned, same_gradients, close):
    linear = nn.Linear(128, 192, bias=bias)
    ours, theirs, factors = attach_both(linear, rank, alpha, double, learned)
    x = torch.randn(2, 5, 128) / 4
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = ours(mine), theirs(other)
    apart(expected, linear(x), 0.01)  # rounded, and changed by LoRA
    close(got, expected)
    same_gradients(got / 20, expected / 20)
    close(mine.grad, other.grad)
    assert trainable(ours).keys() == factors.keys()
    for name, p in factors.items():
        close(trainable(ours)[name].grad, p.grad)
    assert theirs.get_nb_trainable_parameters()[0] == count(ours)


def test_the_start_is_the_quantized_layer_in_both(close):
    linear, x = nn.Linear(128, 192), torch.randn(2, 5, 128)
    theirs = quantized(linear, False)(x)
    close(QLoRA(targets=("layer",), double_quant=False).attach(one(linear))(x), theirs)
    apart(linear(x), theirs, 0.01)


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit:UserWarning")
def test_merging_keeps_what_was_trained_and_in_peft_is_rounded_to_4_bits_again(learned, close):
    linear, x = nn.Linear(128, 192), torch.randn(2, 5, 128) / 4
    ours, theirs, _ = attach_both(linear, 3, 5, False, learned)
    before, plain = ours(x), merge(ours)
    close(theirs(x), before)
    theirs.merge_adapter()
    close(plain(x), before, 2e-6)
    apart(theirs(x), before, 0.01)
    W, stored = plain.layer.weight, theirs.get_base_model().layer.base_layer.weight
    merged = library.dequantize_4bit(stored.data, stored.quant_state)
    close(dequantize(quantize(W, double_quant=False), W.shape), merged)
    assert rounding_error(W, double_quant=False) == pytest.approx(((merged - W).norm() / W.norm()).item(), abs=1e-6)
    assert torch.equal(ours(x), before)
    assert detach(ours).layer is linear
