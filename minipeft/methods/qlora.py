"""QLoRA, all of it: NF4, packing, double quantization, a linear layer that is stored in 4 bits, LoRA on top.

A frozen weight is only read, so it may be stored coarsely: for each value the number of the nearest of 16 levels, for
each block of 64 values their scale. LoRA in front learns in full precision and makes up for the rounding.

    y = x Ŵᵀ + b + s·x Aᵀ Bᵀ    Ŵ = levels[codes]·absmax    codes (out·in,) of 4 bits, absmax (out·in/64,)

Trainable parameters: r·(in + out) for each matrix. The start is the quantized base. Bits per weight: 4 + 32/64 = 4.5;
with absmax in 8 bits (double quantization) 4 + 8/64 + 32/(64·256) = 4.127. This saves storage, not compute: every pass
unpacks Ŵ, so a step is slower than LoRA's. Here the base keeps W beside the view; a deployment does not. Merging gives
Ŵ + s·BA in full precision; 4 bits round it again (`rounding_error`), and s·BA on W is a model that nobody trained.

Sources: 1) Dettmers et al. 2023, arXiv:2305.14314. 2) 8-bit levels: Dettmers 2015, arXiv:1511.04561.
         3) FP4 as E2M1: Rouhani et al. 2023, arXiv:2310.10537.
Paper and library: equation 4 of the paper asks for Φ⁻¹(0) = −∞ and has no zero; the table in its appendix is that of
bitsandbytes, made as in `normal`. For absmax the paper names 8-bit floats; bitsandbytes, and this file, take `dynamic`.
Its FP4 is a table of its own; it keeps scales in 32 bits, this file in the type of W. Paging is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import nn

from minipeft.attach import flat, frozen
from minipeft.methods.lora import LoRA


def normal(bits):
    """2^bits levels for normally distributed weights: its quantiles, 0 and ±1 among them; one more above 0 than below.

    Probabilities are evenly spaced on either side of ½, whose quantile is 0. The outermost lies half a level inside, at
    1 − 1/2n, averaged over n = 2^bits and n = 2^bits − 1 levels; its quantile becomes ±1."""
    n = 2**bits
    edge = 1 - (1 / (2 * n) + 1 / (2 * (n - 1))) / 2
    above, below = (torch.linspace(0.5, edge, m + 1, dtype=torch.float64)[1:] for m in (n // 2, n // 2 - 1))
    up, down = torch.special.ndtri(above), torch.special.ndtri(below)  # Φ⁻¹
    return (torch.cat([-down.flip(0), torch.zeros(1), up]) / up[-1]).float()


def dynamic():
    """256 levels for absmax: 0, 1, and ± the centres of cells; each decade up to 1 has twice as many as the last."""
    decades = [(10.0 ** (i - 6), torch.linspace(0.1, 1, 2**i + 1)) for i in range(7)]
    up = torch.cat([scale * (edges[1:] + edges[:-1]) / 2 for scale, edges in decades])
    return torch.cat([-up.flip(0), torch.zeros(1), up, torch.ones(1)])


TYPES = {"nf4": 4, "nf3": 3, "nf2": 2}  # how many bits `normal` is asked for, or the levels themselves
TYPES |= {f"int{top.bit_length() + 1}": torch.arange(-top, top + 1) / top for top in (7, 3, 1)}
TYPES["fp4"] = torch.tensor([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]) / 6  # E2M1
DYNAMIC, GROUP = dynamic(), 256  # so many absmax share a scale


@cache
def levels_of(quant_type):  # ascending
    return normal(TYPES[quant_type]) if quant_type.startswith("nf") else TYPES[quant_type]


def encode(values, levels, size):
    """Codes (uint8, n padded with zeros to whole blocks) of the nearest levels; the absmax of each block of `size`."""
    blocks = nn.functional.pad(values.flatten(), (0, -values.numel() % size)).view(-1, size)  # (blocks, size)
    absmax = blocks.abs().amax(1)  # (blocks,)
    scaled = blocks / absmax.clamp(min=torch.finfo(values.dtype).tiny)[:, None]  # a block of zeros stays zero
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(scaled, middles.to(values)).flatten().to(torch.uint8), absmax


def decode(codes, absmax, levels, size):  # the values that n codes stand for, (n,)
    return levels.to(absmax)[codes.long()] * absmax.repeat_interleave(size)[: len(codes)]


def quantize(tensor, quant_type="nf4", block_size=64, double_quant=True):
    """What is stored instead of the tensor, {name: tensor}: "packed", two codes in a byte, the earlier one above, and
    "absmax", one for each block. With double_quant "mean" is the mean of these, "absmax" the codes of what each differs
    from it, in levels DYNAMIC and blocks of GROUP, and "absmax2" the absmax of these blocks."""
    codes, absmax = encode(tensor, levels_of(quant_type), block_size)
    codes = codes[: tensor.numel() + tensor.numel() % 2]
    packed = codes[0::2] << 4 | codes[1::2]
    if not double_quant:
        return {"packed": packed, "absmax": absmax}
    mean = absmax.mean()  # absmax is positive, the levels lie on both sides of 0
    codes, absmax2 = encode(absmax - mean, DYNAMIC, GROUP)
    return {"packed": packed, "absmax": codes[: len(absmax)], "mean": mean, "absmax2": absmax2}


def dequantize(stored, shape, quant_type="nf4", block_size=64):
    """The tensor that `quantize` stored, with its rounding."""
    absmax = stored["absmax"]
    if "mean" in stored:
        absmax = decode(absmax, stored["absmax2"], DYNAMIC, GROUP) + stored["mean"]
    codes = torch.stack([stored["packed"] >> 4, stored["packed"] & 15], dim=1).flatten()[: torch.Size(shape).numel()]
    return decode(codes, absmax, levels_of(quant_type), block_size).view(shape)


def rounding_error(tensor, quant_type="nf4", block_size=64, double_quant=True):
    """‖Ŵ − W‖ / ‖W‖. Of a merged weight: what putting it back into 4 bits would cost."""
    rounded = dequantize(quantize(tensor, quant_type, block_size, double_quant), tensor.shape, quant_type, block_size)
    return ((rounded - tensor).norm() / tensor.norm()).item()


def predicted_bits(block_size=64, double_quant=True):  # stored for each weight, if absmax and absmax2 have 32 bits
    return 4 + (8 / block_size + 32 / (block_size * GROUP) if double_quant else 32 / block_size)


def measured_bits(model):
    """The same, weighed: above the prediction, because blocks and groups are not always full, and for the mean."""
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    stored = sum(8 * p.numel() * p.element_size() for m in layers for name, p in m.named_parameters() if name != "bias")
    return stored / sum(m.in_features * m.out_features for m in layers)


class Product(torch.autograd.Function):
    """x Ŵᵀ. The backward pass unpacks Ŵ again: autograd would keep the whole of it, for every layer, until then."""

    @staticmethod
    def forward(ctx, x, linear):
        ctx.linear = linear
        return x @ linear.weight.T

    @staticmethod
    def backward(ctx, grad):  # (..., out)
        return grad @ ctx.linear.weight.to(grad), None  # (..., in); under autocast the gradient is in half precision


class QuantizedLinear(nn.Linear):
    """y = x Ŵᵀ + b, by `Product`: a frozen `nn.Linear` that stores codes and scales, and makes Ŵ when asked for it."""

    def __init__(self, linear, quant_type="nf4", block_size=64, double_quant=True):
        nn.Module.__init__(self)  # and not nn.Linear's own, which makes a whole weight
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.quant_type, self.block_size = quant_type, block_size
        for name, tensor in quantize(linear.weight.detach(), quant_type, block_size, double_quant).items():
            setattr(self, name, frozen(tensor))  # a parameter, so that views share it

    @property
    def weight(self):
        shape, stored = (self.out_features, self.in_features), dict(self.named_parameters())
        return dequantize(stored, shape, self.quant_type, self.block_size)

    def forward(self, x):  # (..., in)
        y = Product.apply(x, self)  # (..., out)
        return y if self.bias is None else y + self.bias

    def merged(self):
        plain = nn.Linear(self.in_features, self.out_features, device="meta")  # no numbers drawn for nothing
        plain.weight, plain.bias = frozen(self.weight), self.bias
        return plain


@dataclass(frozen=True)
class QLoRA(LoRA):
    """LoRA in front of linear layers stored in 4 bits.

    Args:
        rank, alpha, dropout, rank_pattern, rslora, lr_ratio, layers: of LoRA.
        targets: names of Linear modules; see `targets.match`. They are quantized, and nothing else is.
        quant_type: the levels: "nf4", "int4", "fp4"; or fewer, still in half a byte: "nf3", "nf2", "int3", "int2".
        block_size: so many weights share an absmax.
        double_quant: store absmax in 8 bits.
    """

    targets: tuple[str, ...] | str | Callable = ("q", "k", "v", "o", "up", "down")
    quant_type: Literal["nf4", "nf3", "nf2", "int4", "int3", "int2", "fp4"] = "nf4"
    block_size: int = 64
    double_quant: bool = True

    LIMITS = LoRA.LIMITS | {"block_size": (2, 4097)}
    KINDS = (nn.Linear,)

    def __post_init__(self):
        super().__post_init__()
        if self.block_size % 2:
            raise ValueError(f"block_size must be an even whole number, got {self.block_size}; 64 is usual")

    def layer(self, module, rank):
        quantized = QuantizedLinear(flat(module), self.quant_type, self.block_size, self.double_quant)
        return super().layer(quantized, rank)
