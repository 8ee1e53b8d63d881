"""QLoRA: levels for normal weights, blocks, two codes in a byte, double quantization, and the layer that stores these."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, linear, numbers

exercise = Exercise(
    "qlora",
    "methods/qlora.py",
    stubs=(
        "normal",
        "encode",
        "decode",
        "quantize",
        "dequantize",
        "predicted_bits",
        "Product.backward",
        "QuantizedLinear.forward",
    ),
    title="QLoRA: a frozen weight in four bits",
    minutes=80,
    difficulty=3,
    why="What a weight loses in four bits and what it does not, where the half bit more goes, and why training still works.",
    read="Dettmers et al. 2023, arXiv:2305.14314, sections 2 and 3; the levels stand in its appendix E",
    lesson="12",
)

BACKWARD = "return grad @ ctx.linear.weight.to(grad), None"


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


@exercise.observe("levels", "The number of levels on either side of zero, or the outermost level, is not right.")
def what_the_levels_are_like(impl):
    levels = impl.normal(4)
    return {
        "levels": len(levels),
        "below zero": int((levels < -1e-6).sum()),
        "equal to zero": int((levels.abs() <= 1e-6).sum()),
        "in ascending order": bool((levels.diff() > 0).all()),
        "lowest": float(levels[0]),
        "highest": float(levels[-1]),
    }


@exercise.observe("levels", "The 16 levels for normally distributed weights are not the expected ones.")
def levels_of_four_bits(impl):
    return impl.normal(4)


@exercise.observe("levels", "With three and with two bits the levels are not the expected ones.")
def levels_of_fewer_bits(impl):
    return {f"{bits} bits": impl.normal(bits) for bits in (3, 2)}


@exercise.observe("blocks", "The largest magnitude of each block, absmax, is not right.")
def absmax_of_the_blocks(impl):
    return impl.encode(uneven(3, 5), five(), 4)[1]


@exercise.observe("blocks", "Each value should get the number of the level that is nearest to it within its block.")
def codes_of_the_nearest_levels(impl):
    return impl.encode(uneven(3, 5), five(), 4)[0][:15]


@exercise.observe("blocks", "`encode` gives another number of codes, or another type, than it should.")
def whole_blocks(impl):
    return sizes({"codes": impl.encode(uneven(3, 5), five(), 4)[0]})


@exercise.observe("blocks", "The codes of a block of zeros should be those of the level 0.")
def block_of_zeros(impl):
    W = uneven(3, 4)
    W[1] = 0
    return impl.encode(W, five(), 4)[0]


@exercise.observe("blocks", "The values that codes stand for are not right.")
def decoded(impl):
    codes = torch.tensor([4, 0, 2, 3, 1, 4, 0], dtype=torch.uint8)  # one block of 4, one that is cut short
    return impl.decode(codes, torch.tensor([2.0, 0.5]), five(), 4)


@exercise.observe("blocks", "What is decoded should have the type of absmax, whatever type the table of levels has.")
def type_of_what_is_decoded(impl):
    codes = torch.tensor([4, 0, 2], dtype=torch.uint8)
    return str(impl.decode(codes, torch.tensor([2.0, 0.5]), five().float(), 2).dtype)


@exercise.observe("packing", "Without double quantization, the names, sizes or types of what is stored are not right.")
def stored(impl):
    return sizes(impl.quantize(uneven(3, 6), "int4", 4, False))


@exercise.observe("packing", "The bytes that two codes are packed into are not the expected ones.")
def bytes_of_the_codes(impl):
    return impl.quantize(uneven(4, 6), "int4", 8, False)["packed"]


@exercise.observe("packing", "Bytes and absmax are given here; the tensor that is unpacked from them is not right.")
def unpacked(impl):
    packed = torch.tensor([0x0E, 0x7C, 0xE7, 0x10, 0x2D, 0xB3], dtype=torch.uint8)
    return impl.dequantize({"packed": packed, "absmax": torch.tensor([2.0, 0.5, 1.0])}, (3, 4), "int4", 4)


@exercise.observe("packing", "A matrix with an odd number of values does not come back as it should.")
def odd_number_of_values(impl):
    return impl.dequantize(impl.quantize(uneven(3, 5), "int4", 4, False), (3, 5), "int4", 4)


@exercise.observe("packing", "A matrix in nf4 does not come back as it should.")
def there_and_back(impl):
    return impl.dequantize(impl.quantize(uneven(4, 6), "nf4", 8, False), (4, 6), "nf4", 8)


@exercise.observe(
    "double quantization", "With double quantization, the names, sizes or types of what is stored are not right."
)
def stored_twice_quantized(impl):
    return sizes(impl.quantize(large(), "int4", 2, True))


@exercise.observe(
    "double quantization", "The mean of all absmax, and the scales of what they differ from it, are not right."
)
def mean_and_scales(impl):
    kept = impl.quantize(large(), "int4", 2, True)
    return {name: kept[name] for name in ("mean", "absmax2")}


@exercise.observe("double quantization", "The 8-bit codes of absmax are not the expected ones.")
def codes_of_absmax(impl):
    return impl.quantize(large(), "int4", 2, True)["absmax"]


@exercise.observe(
    "double quantization", "All parts are given here; the tensor that is unpacked from them is not right."
)
def unpacked_twice(impl):
    packed = torch.tensor([0x0E, 0x7C, 0xE7, 0x10], dtype=torch.uint8)
    absmax = torch.tensor([255, 40], dtype=torch.uint8)
    kept = {"packed": packed, "absmax": absmax, "mean": torch.tensor(1.5), "absmax2": torch.tensor([0.5])}
    return impl.dequantize(kept, (2, 4), "int4", 4)


@exercise.observe("double quantization", "With double quantization a matrix does not come back as it should.")
def there_and_back_twice_quantized(impl):
    return impl.dequantize(impl.quantize(large(), "int4", 2, True), (25, 24), "int4", 2)[:2]


@exercise.observe("double quantization", "A block of zeros should come back as zeros.")
def zeros_twice_quantized(impl):
    W = uneven(3, 4)
    W[1] = 0
    return impl.dequantize(impl.quantize(W, "int4", 4, True), (3, 4), "int4", 4)[1]


@exercise.observe("layer", "The output of the quantized layer, x Ŵᵀ + b, is not the expected one.")
def output(impl):
    return layer(impl)(numbers("x", (2, 4, 10)))


@exercise.observe("layer", "A layer without a bias should work as well.")
def output_without_bias(impl):
    return layer(impl, bias=False)(numbers("x", (4, 10)))


@exercise.observe("layer", "The gradient that goes back to the input is not the expected one.")
def gradient_of_the_input(impl):
    x = numbers("x", (2, 4, 10)).requires_grad_()
    (layer(impl)(x) * numbers("weight of the output", (2, 4, 6))).sum().backward()
    return x.grad


@exercise.observe("layer", "Nothing as large as the whole weight should wait for the backward pass.")
def what_waits_for_the_backward_pass(impl):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(impl)(numbers("x", (4, 10)).requires_grad_())
    return {"a whole weight is kept": 60 in kept}


@exercise.observe(
    "layer",
    "In a model of two quantized layers with LoRA in front, the gradients of A and B are not the expected ones.",
)
def gradients_in_a_model(impl):
    method = impl.QLoRA(rank=2, alpha=6, targets=("0", "2"), block_size=8, double_quant=False)
    net = method.attach(fill(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))))
    fill(net, "trainable")
    net(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in attach.trainable(net).items()}


@exercise.observe("layer", "Under autocast, in half precision, a gradient should go back to the input as well.")
def gradient_in_half_precision(impl):
    made, x = layer(impl).float(), numbers("x", (4, 10)).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = made(x)
    y.sum().backward()
    return {"gradient": str(x.grad.dtype), "is zero": not x.grad.any()}


@exercise.observe("bits", "The bits for each weight, without double quantization, are not right.")
def bits(impl):
    return {f"blocks of {size}": impl.predicted_bits(size, False) for size in (32, 64, 128)}


@exercise.observe("bits", "The bits for each weight, with double quantization, are not right.")
def bits_twice_quantized(impl):
    return {f"blocks of {size}": impl.predicted_bits(size, True) for size in (32, 64, 128)}


exercise.mistake(
    "no zero among the levels",
    (("return (torch.cat([-down.flip(0), torch.zeros(1), up]) / up[-1]).float()",
      "both = torch.special.ndtri(torch.linspace(1 - edge, edge, n, dtype=torch.float64))\n    return (both / both[-1]).float()"),),
    "the levels are symmetric, so none of them is zero",
    "which level does a weight of exactly 0 get?",
    "Sixteen cannot be symmetric and hold the zero too: the two sides have to be made apart.",
)  # fmt: skip
exercise.mistake(
    "equation 4 of the paper",
    (("return (torch.cat([-down.flip(0), torch.zeros(1), up]) / up[-1]).float()",
      "q = torch.special.ndtri(torch.arange(n + 1, dtype=torch.float64) / (n + 1))\n    q = (q[1:] + q[:-1]) / 2\n    return (q / q[-1]).float()"),),
    "the levels are means of neighbouring quantiles, as equation 4 of the paper prints them",
    "what is the quantile of probability 0?",
    "That equation begins at −∞ and has no zero; the levels in use are made in another way, which the docstring tells.",
    "bitsandbytes#440, #543, #938, #968; qlora#94",
)  # fmt: skip
exercise.mistake(
    "one level too few",
    (("for m in (n // 2, n // 2 - 1))", "for m in (n // 2 - 1, n // 2 - 1))"),),
    "both sides have the same number of levels, so one code is never used",
    "how many numbers can four bits tell apart, and how many levels do you have?",
    "With the zero, an even number of levels cannot be split evenly.",
    "qlora#299",
)
exercise.mistake(
    "one more below",
    (("for m in (n // 2, n // 2 - 1))", "for m in (n // 2 - 1, n // 2))"),),
    "the side with one level more is the negative one",
    "which side has one more, above zero or below?",
    "Either would work, but bytes that others wrote can only be read with the levels they used.",
    "bitsandbytes, where a docstring counts them wrongly",
)
exercise.mistake(
    "levels are not scaled",
    (("torch.zeros(1), up]) / up[-1]).float()", "torch.zeros(1), up])).float()"),),
    "the levels are quantiles as they are and do not end at ±1",
    "between which two numbers does a value lie that was divided by absmax?",
    "The largest value of a block has to meet the outermost level.",
)
exercise.mistake(
    "evenly spaced levels",
    (("return (torch.cat([-down.flip(0), torch.zeros(1), up]) / up[-1]).float()", "return torch.linspace(-1, 1, n)"),),
    "the levels are evenly spaced",
    "where are most values of a normal distribution?",
    "Levels should lie close together where there are many weights, so that each serves equally many.",
)
exercise.mistake(
    "outermost at infinity",
    (("edge = 1 - (1 / (2 * n) + 1 / (2 * (n - 1))) / 2", "edge = 1.0"),),
    "the outermost quantile is that of probability 1, which is infinite",
    "how large is Φ⁻¹(1), the number below which everything lies?",
    "The outermost probability stays a little inside; the docstring tells how much.",
)
exercise.mistake(
    "outermost for 2^bits only",
    (("edge = 1 - (1 / (2 * n) + 1 / (2 * (n - 1))) / 2", "edge = 1 - 1 / (2 * n)"),),
    "the outermost probability is 1 − 1/2n for n = 2^bits alone, not the average",
    "for which two numbers of levels is 1 − 1/2n averaged?",
    "The difference is small, but it moves every level.",
)
exercise.mistake(
    "one absmax for all",
    (("absmax = blocks.abs().amax(1)  # (blocks,)", "absmax = blocks.abs().amax().repeat(len(blocks))"),),
    "the whole tensor shares one absmax",
    "what does one large weight do to all the others?",
    "With a scale for each block an outlier spoils its own block only.",
)
exercise.mistake(
    "a new block for each row",
    (("nn.functional.pad(values.flatten(), (0, -values.numel() % size)).view(-1, size)",
      "nn.functional.pad(values, (0, -values.shape[-1] % size)).view(-1, size)"),),
    "every row begins a new block",
    "how many blocks has a matrix of 3×5 values, with blocks of 4?",
    "The values are one long row first; blocks do not know where rows end.",
)  # fmt: skip
exercise.mistake(
    "column by column",
    (("nn.functional.pad(values.flatten(), (0, -values.numel() % size))", "nn.functional.pad(values.t().flatten(), (0, -values.numel() % size))"),),
    "blocks go down the columns",
    "which value comes second in the first block?",
    "Row by row is the order in which a tensor lies in memory, and in which it is unpacked.",
)  # fmt: skip
exercise.mistake(
    "largest without its sign",
    (("absmax = blocks.abs().amax(1)  # (blocks,)", "absmax = blocks.amax(1)"),),
    "the scale of a block is its largest value, not its largest magnitude",
    "what happens to a block whose largest number in size is negative?",
    "The levels reach from −1 to 1, so the magnitude counts.",
)
exercise.mistake(
    "standard deviation",
    (("absmax = blocks.abs().amax(1)  # (blocks,)", "absmax = blocks.square().mean(1).sqrt()"),),
    "the scale of a block is its standard deviation",
    "where does the largest value of a block go, if levels end at 1?",
    "Whatever is larger than the scale is cut off; the scale is named after what it is.",
)
exercise.mistake(
    "zeros divided by zero",
    (("blocks / absmax.clamp(min=torch.finfo(values.dtype).tiny)[:, None]", "blocks / absmax[:, None]"),),
    "a block of zeros is divided by its absmax, zero",
    "what is 0/0, and which code does that get?",
    "A block of zeros is rare but real, in pruned weights and in padding.",
    "BitNet#123, of this kind",
)
exercise.mistake(
    "next level, not nearest",
    (("torch.bucketize(scaled, middles.to(values))", "torch.bucketize(scaled, levels.to(values))"),),
    "a value gets the next level above it, not the nearest",
    "to which level belongs a value a little above a level?",
    "The borders between two codes lie halfway between their levels.",
)
exercise.mistake(
    "as if evenly spaced",
    (("    return torch.bucketize(scaled, middles.to(values)).flatten().to(torch.uint8), absmax", "    codes = (scaled.clamp(-1, 1) + 1) / 2 * (len(levels) - 1)\n    return codes.round().flatten().to(torch.uint8), absmax"),),
    "codes are counted as if the levels were evenly spaced",
    "does your code look at the levels, or only at how many there are?",
    "Rounding finds the nearest of numbers that are one apart; these levels are not.",
)  # fmt: skip
exercise.mistake(
    "codes with a sign",
    ((".flatten().to(torch.uint8), absmax", ".flatten().to(torch.int8), absmax"),),
    "codes are int8, and a byte above 127 turns negative",
    "what is 14 << 4 in a type that ends at 127?",
    "Shifting a negative number to the right keeps its sign; take the type without one.",
)
exercise.mistake(
    "absmax is left out",
    (("levels.to(absmax)[codes.long()] * absmax.repeat_interleave(size)[: len(codes)]", "levels.to(absmax)[codes.long()]"),),
    "levels are not multiplied by the absmax of their block",
    "between which numbers lies all that you decode?",
    "A code tells the place within the block; absmax tells how large the block is.",
)  # fmt: skip
exercise.mistake(
    "absmax divides",
    (("[codes.long()] * absmax.repeat", "[codes.long()] / absmax.repeat"),),
    "levels are divided by absmax when they are unpacked",
    "what undoes a division by absmax?",
    "Encoding divides, so decoding does the opposite.",
)
exercise.mistake(
    "absmax in the wrong rhythm",
    (("absmax.repeat_interleave(size)[: len(codes)]", "absmax.repeat(size)[: len(codes)]"),),
    "the absmax of all blocks are repeated in turn, instead of each for its whole block",
    "which absmax belongs to the second value?",
    "`repeat` gives a b a b, `repeat_interleave` a a b b.",
)
exercise.mistake(
    "codes as a mask",
    (("levels.to(absmax)[codes.long()]", "levels.to(absmax)[codes]"),),
    "uint8 is taken for a mask when it stands in brackets",
    "what does `t[torch.tensor([0, 1], dtype=torch.uint8)]` select?",
    "Indices have to be of a wider integer type.",
)
exercise.mistake(
    "type of the table",
    (("    return levels.to(absmax)[codes.long()] * absmax.repeat_interleave(size)[: len(codes)]", "    values = levels[codes.long()] * absmax.repeat_interleave(size)[: len(codes)]\n    return values.to(levels)"),),
    "what is decoded has the type of the table, float32, whatever the type of the model",
    "what does a model in bfloat16, or in float64, multiply your weights with?",
    "Levels are a table in float32; absmax has the type of the weights, and the weights should have it again.",
)  # fmt: skip
exercise.mistake(
    "nibbles exchanged",
    (("packed = codes[0::2] << 4 | codes[1::2]", "packed = codes[1::2] << 4 | codes[0::2]"),
     ('torch.stack([stored["packed"] >> 4, stored["packed"] & 15], dim=1)', 'torch.stack([stored["packed"] & 15, stored["packed"] >> 4], dim=1)')),
    "the earlier code of two is the lower half of the byte",
    "are the codes 1 and 2 the byte 0x12 or 0x21?",
    "It comes back right, but other programs cannot read the bytes.",
)  # fmt: skip
exercise.mistake(
    "nibbles exchanged when packed",
    (("packed = codes[0::2] << 4 | codes[1::2]", "packed = codes[1::2] << 4 | codes[0::2]"),),
    "the two codes of a byte are packed in one order and unpacked in the other",
    "what comes back from the codes 1 2 3 4?",
    "Follow two codes into their byte and out again.",
)
exercise.mistake(
    "halves in a byte",
    (("packed = codes[0::2] << 4 | codes[1::2]", "packed = codes[: len(codes) // 2] << 4 | codes[len(codes) // 2 :]"),
     ('torch.stack([stored["packed"] >> 4, stored["packed"] & 15], dim=1)', 'torch.stack([stored["packed"] >> 4, stored["packed"] & 15])')),
    "a byte holds one code of the first half and one of the second",
    "which two codes does the first byte hold?",
    "Two neighbours share a byte.",
)  # fmt: skip
exercise.mistake(
    "a byte for each code",
    (("packed = codes[0::2] << 4 | codes[1::2]", "packed = codes"),
     ('torch.stack([stored["packed"] >> 4, stored["packed"] & 15], dim=1).flatten()', 'stored["packed"]')),
    "each code has a byte of its own, so this is 8-bit storage",
    "how many bytes do 18 codes of 4 bits need?",
    "There is no type of 4 bits: two codes have to share a byte.",
)  # fmt: skip
exercise.mistake(
    "odd count",
    (("codes = codes[: tensor.numel() + tensor.numel() % 2]", "codes = codes[: tensor.numel()]"),),
    "with an odd number of values the last one has no partner",
    "with whom does the 15th of 15 codes share its byte?",
    "One more code fills the last byte; unpacking drops it again.",
)
exercise.mistake(
    "padding is stored",
    (("    codes = codes[: tensor.numel() + tensor.numel() % 2]\n", ""),),
    "the zeros that fill the last block are stored too",
    "how many bytes do 18 codes of 4 bits need?",
    "Only the last byte may need filling, not the last block.",
)
exercise.mistake(
    "padding of the groups is stored",
    (('"absmax": codes[: len(absmax)], "mean"', '"absmax": codes, "mean"'),),
    "the codes that fill the last group of absmax are stored too",
    "how many blocks are there, and how many codes do you store for them?",
    "What `encode` adds to fill a block says nothing about the weights.",
)
exercise.mistake(
    "no double quantization",
    (("    if not double_quant:\n", "    if double_quant in (True, False):\n"),),
    "double_quant changes nothing",
    "what type has the absmax that you store with double_quant=True?",
    "The absmax are numbers like any others: they can be encoded too.",
)
exercise.mistake(
    "without the mean",
    (("mean = absmax.mean()  # absmax is positive", "mean = torch.zeros_like(absmax.mean())  # absmax is positive"),),
    "absmax is encoded as it is, without taking its mean away",
    "which of the levels −1 to 1 do positive numbers use?",
    "Half of the codes would never be used; the mean moves absmax to where the levels are.",
)
exercise.mistake(
    "mean is not added back",
    (('DYNAMIC, GROUP) + stored["mean"]', "DYNAMIC, GROUP)"),),
    "the mean that was taken away from absmax is not added again",
    "may an absmax be negative when it is unpacked?",
    "Everything that encoding took away has to come back.",
)
exercise.mistake(
    "groups of block_size",
    (("encode(absmax - mean, DYNAMIC, GROUP)", "encode(absmax - mean, DYNAMIC, block_size)"),
     ('stored["absmax2"], DYNAMIC, GROUP)', 'stored["absmax2"], DYNAMIC, block_size)')),
    "absmax are encoded in blocks of block_size instead of GROUP",
    "how many absmax share one scale?",
    "There are two sizes of block in double quantization, one for weights and one for absmax.",
)  # fmt: skip
exercise.mistake(
    "even levels for absmax",
    (("encode(absmax - mean, DYNAMIC, GROUP)", "encode(absmax - mean, torch.linspace(-1, 1, 256), GROUP)"),
     ('stored["absmax2"], DYNAMIC, GROUP)', 'stored["absmax2"], torch.linspace(-1, 1, 256), GROUP)')),
    "absmax are encoded in 256 evenly spaced levels",
    "which of the levels in the file is made for absmax?",
    "The file has a table of 256 levels that are finer near zero.",
)  # fmt: skip
exercise.mistake(
    "the other half stays in",
    (('stored["packed"] & 15], dim=1)', 'stored["packed"]], dim=1)'),),
    "the upper code is still in the byte when the lower one is read",
    "how large can a code of four bits be, and how large are yours?",
    "Shifting gets the upper half; the lower half needs the upper one cleared.",
)
exercise.mistake(
    "filler comes back",
    (("dim=1).flatten()[: torch.Size(shape).numel()]", "dim=1).flatten()"),),
    "the code that fills the last byte comes back as a value",
    "how many values does a tensor of the shape (3, 5) have, and how many codes are in its bytes?",
    "The shape says how many codes are real.",
)
exercise.mistake(
    "upper halves first",
    (('torch.stack([stored["packed"] >> 4, stored["packed"] & 15], dim=1).flatten()', 'torch.cat([stored["packed"] >> 4, stored["packed"] & 15])'),),
    "all upper halves come out before all lower ones",
    "which code follows the upper half of the first byte?",
    "The two codes of a byte are neighbours, so they have to be woven together again.",
)  # fmt: skip
exercise.mistake(
    "unpacked column by column",
    (("block_size).view(shape)", "block_size).view(shape[::-1]).T"),),
    "the values are put back column by column",
    "which value stands to the right of the first one?",
    "Values were taken row by row.",
)
exercise.mistake(
    "bias is left out",
    (("return y if self.bias is None else y + self.bias", "return y"),),
    "the bias is left out",
    "what does your layer answer for x = 0?",
    "The weight is quantized, the bias is kept as it is and still counts.",
)
exercise.mistake(
    "autograd keeps the weight",
    (("y = Product.apply(x, self)", "y = x @ self.weight.T"),),
    "autograd keeps the whole unpacked weight until the backward pass",
    "what does a product x Ŵᵀ need to know to send a gradient back to x?",
    "The numbers come out right, but the memory that four bits saved is spent again; the file has something for this.",
)
exercise.mistake(
    "no way back",
    (("y = Product.apply(x, self)  # (..., out)", "y = torch.no_grad()(lambda: x @ self.weight.T)()"),),
    "the product is taken out of the graph, so no gradient passes the layer",
    "how do the layers below learn?",
    "The weight is frozen, but the gradient still has to go through it to the input.",
)
exercise.mistake(
    "nothing goes back",
    ((BACKWARD, "return None, None"),),
    "the backward pass returns nothing for x",
    "which layers still learn if this one sends nothing back?",
    "Frozen means that the weight gets no gradient; the input does.",
)
exercise.mistake(
    "backward transposed",
    ((BACKWARD, "return grad @ ctx.linear.weight.T.to(grad), None"),),
    "the gradient is multiplied by the transposed weight",
    "which shape has the gradient that comes in, and which should go out?",
    "Forward goes from in to out, backward from out to in.",
)
exercise.mistake(
    "type of the weight",
    ((BACKWARD, "return grad @ ctx.linear.weight, None"),),
    "the backward pass multiplies a gradient in half precision with a weight in full precision",
    "which type has the gradient that comes in under `torch.autocast`, and which has Ŵ?",
    "Both factors of a product need one type; the gradient tells which.",
)
exercise.mistake(
    "the second scale is free",
    (("8 / block_size + 32 / (block_size * GROUP)", "8 / block_size"),),
    "the scales of absmax are not counted",
    "what besides codes does double quantization store?",
    "Each group of absmax has a scale of its own, in 32 bits.",
)
exercise.mistake(
    "a scale for each GROUP of weights",
    (("32 / (block_size * GROUP)", "32 / GROUP"),),
    "the scale of a group is divided among GROUP weights",
    "how many weights stand behind GROUP absmax?",
    "Each of the absmax belongs to a whole block.",
)
exercise.mistake(
    "scales of 16 bits",
    (("if double_quant else 32 / block_size)", "if double_quant else 16 / block_size)"),),
    "absmax is counted with 16 bits",
    "how many bits does one absmax have here?",
    "The comment beside the function tells the size.",
)

exercise.right(
    "nearest by distance",
    (("    scaled = blocks / absmax.clamp(min=torch.finfo(values.dtype).tiny)[:, None]  # a block of zeros stays zero\n    middles = (levels[1:] + levels[:-1]) / 2\n    return torch.bucketize(scaled, middles.to(values)).flatten().to(torch.uint8), absmax",
      "    distance = blocks[:, :, None] - absmax[:, None, None] * levels.to(values)\n    scaled = blocks / torch.where(absmax > 0, absmax, 1.0)[:, None]\n    distance = scaled[:, :, None] - levels\n    return distance.abs().argmin(2).view(-1).byte(), absmax"),),
)  # fmt: skip
exercise.right(
    "quantiles of a distribution",
    (("    above, below = (torch.linspace(0.5, edge, m + 1, dtype=torch.float64)[1:] for m in (n // 2, n // 2 - 1))\n    up, down = torch.special.ndtri(above), torch.special.ndtri(below)  # Φ⁻¹\n    return (torch.cat([-down.flip(0), torch.zeros(1), up]) / up[-1]).float()",
      "    Φ = torch.distributions.Normal(0.0, 1.0)\n    up = Φ.icdf(torch.linspace(edge, 0.5, n // 2 + 1)[:-1])\n    down = -Φ.icdf(torch.linspace(edge, 0.5, n // 2)[:-1])\n    levels = torch.tensor([*down.tolist(), 0.0, *up.tolist()]).sort().values\n    return levels / levels.max()"),),
)  # fmt: skip
exercise.right(
    "block by block",
    (("    return levels.to(absmax)[codes.long()] * absmax.repeat_interleave(size)[: len(codes)]",
      "    parts = [levels[block.int()].to(absmax) * scale for block, scale in zip(codes.split(size), absmax)]\n    return torch.cat(parts)"),),
)  # fmt: skip
exercise.right(
    "arithmetic for bits",
    (("packed = codes[0::2] << 4 | codes[1::2]", "packed = codes.view(-1, 2)[:, 0] * 16 + codes.view(-1, 2)[:, 1]"),
     ('    codes = torch.stack([stored["packed"] >> 4, stored["packed"] & 15], dim=1).flatten()[: torch.Size(shape).numel()]\n',
      '    codes = stored["packed"].new_empty(2 * len(stored["packed"]))\n    codes[0::2], codes[1::2] = stored["packed"] // 16, stored["packed"] % 16\n    codes = codes[: torch.zeros(shape).numel()]\n')),
)  # fmt: skip
exercise.right(
    "gradient by einsum",
    ((BACKWARD, 'return torch.einsum("...o,oi->...i", grad, ctx.linear.weight.to(grad)), None'),
     ("        y = Product.apply(x, self)  # (..., out)\n        return y if self.bias is None else y + self.bias",
      "        y = Product.apply(x.reshape(-1, self.in_features), self).view(*x.shape[:-1], -1)\n        return y + self.bias if self.bias is not None else y")),
)  # fmt: skip
exercise.right(
    "bits of a block",
    (("    return 4 + (8 / block_size + 32 / (block_size * GROUP) if double_quant else 32 / block_size)",
      "    scale = 8 + 32 / GROUP if double_quant else 32\n    return (4 * block_size + scale) / block_size"),),
)  # fmt: skip

exercise.variant(
    "the earlier one below",
    (("packed = codes[0::2] << 4 | codes[1::2]", "packed = codes[1::2] << 4 | codes[0::2]"),
     ('torch.stack([stored["packed"] >> 4, stored["packed"] & 15], dim=1)', 'torch.stack([stored["packed"] & 15, stored["packed"] >> 4], dim=1)'),
     ("two codes in a byte, the earlier one above,", "two codes in a byte, the earlier one below,")),
    "of the two codes in a byte the earlier one is the lower half",
)  # fmt: skip
exercise.variant(
    "one more below zero",
    (("for m in (n // 2, n // 2 - 1))", "for m in (n // 2 - 1, n // 2))"),
     ("one more above 0 than below.", "one more below 0 than above.")),
    "there is one level more below zero than above",
)  # fmt: skip
exercise.variant(
    "scales of 16 bits",
    (("8 / block_size + 32 / (block_size * GROUP) if double_quant else 32 / block_size", "8 / block_size + 16 / (block_size * GROUP) if double_quant else 16 / block_size"),
     ("if absmax and absmax2 have 32 bits", "if absmax and absmax2 have 16 bits")),
    "the scales, absmax and absmax2, are counted with 16 bits",
)  # fmt: skip
