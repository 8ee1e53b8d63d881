"""QLoRA: levels for normal weights, blocks, two codes in a byte, double quantization, the layer that stores these."""

import torch
from torch import nn

import minipeft.exercises.models as models
from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import fill, linear, numbers

observe = Observations()


def uneven(*shape):
    """Numbers whose rows differ in size, so that it matters which of them share a block."""
    return numbers("W", shape) * torch.logspace(-1, 1, shape[0])[:, None]


def five():
    """Levels to try encode and decode with."""
    return torch.tensor([-1, -0.5, 0, 0.25, 1])


def large():
    """600 numbers in 300 blocks of two, which fill more than one group; every absmax is far from zero."""
    return numbers("W", (25, 24)).abs() + 1


def sizes(stored):
    """How many numbers of which kind are stored under each name."""
    return {
        n: f"{t.numel()} of {'floating type' if t.is_floating_point() else str(t.dtype)[6:]}" for n, t in stored.items()
    }


def layer(impl, bias=True):
    """In 10, out 6: blocks of 8 do not end where rows do."""
    return impl.QuantizedLinear(linear(10, 6, bias), "nf4", 8)


@observe("levels", "The number of levels on either side of zero, or the outermost level, is not right.")
def what_the_levels_are_like(impl):
    levels = impl.normal(4)
    return {
        "levels": len(levels),
        "below zero": int((levels < -1e-6).sum()),
        "equal to zero": int((levels.abs() <= 1e-6).sum()),
        "lowest": float(levels.min()),
        "highest": float(levels.max()),
    }


@observe("levels", "The levels should stand in ascending order: the number of a level is its place.")
def order_of_the_levels(impl):
    return {"in ascending order": bool((impl.normal(4).diff() >= 0).all())}


@observe("levels", "The 16 levels for normally distributed weights are not the expected ones.")
def levels_of_four_bits(impl):
    return impl.normal(4)


@observe("levels", "With three and with two bits the levels are not the expected ones.")
def levels_of_fewer_bits(impl):
    return {f"{bits} bits": impl.normal(bits) for bits in (3, 2)}


@observe("blocks", "The largest magnitude of each block, absmax, is not right.")
def absmax_of_the_blocks(impl):
    return impl.encode(uneven(3, 5), five(), 4)[1]


@observe("blocks", "Each value should get the number of the level that is nearest to it within its block.")
def codes_of_the_nearest_levels(impl):
    return impl.encode(uneven(3, 5), five(), 4)[0][:15]


@observe("blocks", "`encode` gives another number of codes, or another type, than it should.")
def whole_blocks(impl):
    return sizes({"codes": impl.encode(uneven(3, 5), five(), 4)[0]})


@observe("blocks", "The codes of a block of zeros should be those of the level 0, and its absmax zero.")
def block_of_zeros(impl):
    W = uneven(3, 4)
    W[1] = 0
    codes, absmax = impl.encode(W, five(), 4)
    return {"codes": codes, "its absmax is zero": bool(absmax[1] < 1e-7)}


@observe("blocks", "Weights 256 or 65,536 times smaller should have the same codes, and absmax as much smaller.")
def small_weights(impl):
    codes, absmax = impl.encode(uneven(3, 5), five(), 4)
    found = {}
    for factor in (2**8, 2**16):  # powers of two change no digit
        smaller, scale = impl.encode(uneven(3, 5) / factor, five(), 4)
        found[f"{factor} times smaller"] = {
            "the same codes": torch.equal(smaller, codes),
            "as much smaller absmax": torch.allclose(scale * factor, absmax, rtol=0.05),
        }
    return found


@observe("blocks", "The values that codes stand for are not right.")
def decoded(impl):
    codes = torch.tensor([4, 0, 2, 3, 1, 4, 0], dtype=torch.uint8)  # one block of 4, one that is cut short
    return impl.decode(codes, torch.tensor([2.0, 0.5]), five(), 4)


@observe("blocks", "What is decoded should have the type of absmax, whatever type the table of levels has.")
def type_of_what_is_decoded(impl):
    codes, absmax = torch.tensor([4, 0, 2], dtype=torch.uint8), torch.tensor([2.0, 0.5])
    types = (torch.float64, torch.bfloat16)
    return {models.short(t): models.short(impl.decode(codes, absmax.to(t), five().float(), 2).dtype) for t in types}


@observe("blocks", "absmax, and the values that are decoded, should have the type of the weights.")
def types_of_the_parts(impl):
    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        codes, absmax = impl.encode(uneven(3, 5).to(dtype), five().float(), 4)
        found[models.short(dtype)] = {"codes": models.short(codes.dtype), "absmax": models.short(absmax.dtype)}
    return found


@observe("packing", "Without double quantization, the names, sizes or types of what is stored are not right.")
def stored(impl):
    return sizes(impl.quantize(uneven(3, 6), "int4", 4, False))


@observe("packing", "The bytes that two codes are packed into are not the expected ones.")
def bytes_of_the_codes(impl):
    return impl.quantize(uneven(4, 6), "int4", 8, False)["packed"]


@observe("packing", "Bytes and absmax are given here; the tensor that is unpacked from them is not right.")
def unpacked(impl):
    packed = torch.tensor([0x0E, 0x7C, 0xE7, 0x10, 0x2D, 0xB3], dtype=torch.uint8)
    return impl.dequantize({"packed": packed, "absmax": torch.tensor([2.0, 0.5, 1.0])}, (3, 4), "int4", 4)


@observe("packing", "A matrix with an odd number of values does not come back as it should.")
def odd_number_of_values(impl):
    return impl.dequantize(impl.quantize(uneven(3, 5), "int4", 4, False), (3, 5), "int4", 4)


@observe("packing", "A matrix in nf4 does not come back as it should.")
def there_and_back(impl):
    return impl.dequantize(impl.quantize(uneven(4, 6), "nf4", 8, False), (4, 6), "nf4", 8)


@observe("double quantization", "With double quantization, the names, sizes or types of what is stored are not right.")
def stored_twice_quantized(impl):
    return sizes(impl.quantize(large(), "int4", 2, True))


@observe("double quantization", "The mean of all absmax, and the scales of what they differ from it, are not right.")
def mean_and_scales(impl):
    kept = impl.quantize(large(), "int4", 2, True)
    return {name: kept[name] for name in ("mean", "absmax2")}


@observe("double quantization", "The 8-bit codes of absmax are not the expected ones.")
def codes_of_absmax(impl):
    return impl.quantize(large(), "int4", 2, True)["absmax"]


@observe("double quantization", "All parts are given here; the tensor that is unpacked from them is not right.")
def unpacked_twice(impl):
    packed = torch.tensor([0x0E, 0x7C, 0xE7, 0x10], dtype=torch.uint8)
    absmax = torch.tensor([255, 40], dtype=torch.uint8)
    kept = {"packed": packed, "absmax": absmax, "mean": torch.tensor(1.5), "absmax2": torch.tensor([0.5])}
    return impl.dequantize(kept, (2, 4), "int4", 4)


@observe("double quantization", "With double quantization a matrix does not come back as it should.")
def there_and_back_twice_quantized(impl):
    return impl.dequantize(impl.quantize(large(), "int4", 2, True), (25, 24), "int4", 2)[:2]


@observe("double quantization", "Very small weights should come back with the same relative error as large ones.")
def small_weights_twice_quantized(impl):
    def error(W):
        back = impl.dequantize(impl.quantize(W, "int4", 2, True), W.shape, "int4", 2)
        return float((back - W).norm() / W.norm())

    return {f"{factor} times smaller": error(large() / factor) < 1.2 * error(large()) for factor in (2**8, 2**16)}


@observe("double quantization", "A block of zeros should come back as zeros.")
def zeros_twice_quantized(impl):
    W = uneven(3, 4)
    W[1] = 0
    return impl.dequantize(impl.quantize(W, "int4", 4, True), (3, 4), "int4", 4)[1]


@observe("layer", "The output of the quantized layer, x Ŵᵀ + b, is not the expected one.")
def output(impl):
    return layer(impl)(numbers("x", (2, 4, 10)))


@observe("layer", "A layer without a bias should work as well.")
def output_without_bias(impl):
    return layer(impl, bias=False)(numbers("x", (4, 10)))


@observe("layer", "The gradient that goes back to the input is not the expected one.")
def gradient_of_the_input(impl):
    x = numbers("x", (4, 10)).requires_grad_()
    (layer(impl)(x) * numbers("weight of the output", (4, 6))).sum().backward()
    return x.grad


@observe("layer", "x may have any number of dimensions, (in), (B, in) or (B, T, in), forward and backward.")
def dimensions_of_the_input(impl):
    found = {"(4, 10)": around(impl, 4)}
    for shape in ((), (2, 4)):
        try:
            found[str((*shape, 10))] = around(impl, *shape)
        except Exception:
            found[str((*shape, 10))] = "stops"
    return found


def around(impl, *shape):
    """The shapes of an output and of the gradient that came back."""
    x = numbers("x", (*shape, 10)).requires_grad_()
    y = layer(impl)(x)
    y.sum().backward()
    return {"output": str(tuple(y.shape)), "gradient": None if x.grad is None else str(tuple(x.grad.shape))}


@observe("layer", "In double precision, output and gradient should have all their digits.")
def digits(impl):
    made, x, g = layer(impl), numbers("x", (4, 10)).requires_grad_(), numbers("weight of the output", (4, 6))
    y, W = made(x), made.weight.detach()
    (y * g).sum().backward()
    pairs = {"output": (y, x @ W.T + made.bias), "gradient": (x.grad, g @ W)}
    return {
        f"digits of the {name} are lost": bool((a - b).norm() > 1e-12 * b.norm() and torch.allclose(a, b))
        for name, (a, b) in pairs.items()
    }


@observe("layer", "After the codes have changed, the layer should answer with the new weight, both ways.")
def after_new_codes(impl):
    made, x = layer(impl), numbers("x", (4, 10)).requires_grad_()
    made(x).sum().backward()
    for name, tensor in impl.quantize(numbers("other weights", (6, 10)), "nf4", 8, True).items():
        getattr(made, name).data = tensor
    x.grad = None
    y = made(x)
    y.sum().backward()
    return {"output": y, "gradient of the input": x.grad}


@observe("layer", "A pass should leave the layer as it found it: no other tensors are kept in it.")
def what_a_pass_leaves_behind(impl):
    made = layer(impl)
    before = kept_in(made)
    made(numbers("x", (4, 10)).requires_grad_()).sum().backward()
    return sorted(kept_in(made) - before)


def kept_in(module):
    found = {name for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
    return found | {name for name, _ in [*module.named_buffers(), *module.named_parameters()]}


@observe("layer", "Nothing as large as the whole weight should wait for the backward pass.")
def what_waits_for_the_backward_pass(impl):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(impl)(numbers("x", (4, 10)).requires_grad_())
    return {"a whole weight is kept": 60 in kept}


@observe(
    "layer",
    "In a model of two quantized layers with LoRA in front, the gradients of A and B are not the expected ones.",
)
def gradients_in_a_model(impl):
    method = impl.QLoRA(rank=2, alpha=6, targets=("0", "2"), block_size=8, double_quant=False)
    net = method.attach(fill(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))))
    fill(net, "trainable")
    net(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in attach.trainable(net).items()}


@observe("layer", "Everything that is trained in front of such layers, and the input, should receive a gradient.")
def arrivals_in_a_model(impl):
    method = impl.QLoRA(rank=2, alpha=6, targets=("0", "2"), block_size=8)
    net = method.attach(fill(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))))
    fill(net, "trainable")
    x = numbers("x", (4, 5)).requires_grad_()
    found = models.arrivals(net, net(x))
    return found | {"the input": x.grad is not None and bool(x.grad.any())}


@observe("layer", "On a base in float64, float32 or bfloat16, absmax, A, B and the output should have its type.")
def bases_of_other_types(impl):
    def make(dtype):
        net = fill(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))).to(dtype)
        return impl.QLoRA(rank=2, alpha=6, targets=("0", "2"), block_size=8).attach(net)

    return models.types(make, lambda net: net(numbers("x", (4, 5)).to(net[0].base.bias.dtype)))


@observe("layer", "Under autocast, in half precision, a gradient should go back to the input as well.")
def gradient_in_half_precision(impl):
    made, x = layer(impl).float(), numbers("x", (4, 10)).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = made(x)
    y.sum().backward()
    return {"gradient": str(x.grad.dtype), "is zero": not x.grad.any()}


@observe("bits", "The bits for each weight, without double quantization, are not right.")
def bits(impl):
    return {f"blocks of {size}": impl.predicted_bits(size, False) for size in (32, 64, 128)}


@observe("bits", "The bits for each weight, with double quantization, are not right.")
def bits_twice_quantized(impl):
    return {f"blocks of {size}": impl.predicted_bits(size, True) for size in (32, 64, 128)}
