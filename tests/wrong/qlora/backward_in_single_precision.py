# QLoRA whose backward detaches the gradient into a fresh tensor of float32: in double precision digits are lost.
# earns: the gradient is computed in single precision

import math

import torch
from torch import nn


def normal(bits):
    from statistics import NormalDist

    n = 1 << bits
    outermost = 1 - (0.5 / n + 0.5 / (n - 1)) / 2
    half = n // 2
    step_up, step_down = (outermost - 0.5) / half, (outermost - 0.5) / (half - 1)
    q = NormalDist().inv_cdf
    top = q(outermost)
    numbers = [-q(0.5 + k * step_down) / top for k in range(half - 1, 0, -1)]
    numbers += [0.0] + [q(0.5 + k * step_up) / top for k in range(1, half + 1)]
    return torch.tensor(numbers, dtype=torch.float32)


def encode(values, levels, size):
    flat = values.flatten()
    n_blocks = -(-flat.numel() // size)
    padded = flat.new_zeros(n_blocks * size)
    padded[: flat.numel()] = flat
    codes, scales = [], []
    for block in padded.split(size):
        top = block.abs().max()
        unit = block / top if top > 0 else block
        codes.append((unit[:, None] - levels.to(unit)[None, :]).abs().argmin(dim=1))
        scales.append(top)
    return torch.cat(codes).to(torch.uint8), torch.stack(scales)


def decode(codes, absmax, levels, size):
    n = codes.numel()
    scale = absmax[:, None].expand(-1, size).reshape(-1)[:n]
    return torch.index_select(levels.to(absmax), 0, codes.long()) * scale


def quantize(tensor, quant_type="nf4", block_size=64, double_quant=True):
    codes, absmax = encode(tensor, levels_of(quant_type), block_size)
    codes = codes[: 2 * math.ceil(tensor.numel() / 2)]
    even, odd = codes[::2], codes[1::2]
    packed = torch.bitwise_or(torch.bitwise_left_shift(even, 4), odd)
    if double_quant is False:
        return dict(packed=packed, absmax=absmax)
    centre = absmax.sum() / len(absmax)
    second, scale = encode(absmax - centre, DYNAMIC, GROUP)
    return dict(packed=packed, absmax=second[: len(absmax)], mean=centre, absmax2=scale)


def dequantize(stored, shape, quant_type="nf4", block_size=64):
    scale = stored["absmax"]
    if "mean" in stored:
        scale = decode(scale, stored["absmax2"], DYNAMIC, GROUP).add(stored["mean"])
    high = torch.bitwise_right_shift(stored["packed"], 4)
    low = torch.bitwise_and(stored["packed"], 0x0F)
    both = torch.cat([high[:, None], low[:, None]], dim=1).reshape(-1)
    values = decode(both[: math.prod(shape)], scale, levels_of(quant_type), block_size)
    return values.unflatten(0, tuple(shape))


def predicted_bits(block_size=64, double_quant=True):
    weights = block_size * GROUP  # of one full group
    absmax = GROUP * 8 + 32 if double_quant else GROUP * 32
    return (weights * 4 + absmax) / weights


class Product(torch.autograd.Function):
    @staticmethod
    def backward(ctx, grad):
        W = ctx.linear.weight.float()
        return torch.einsum("...o,oi->...i", grad.float(), W), None


class QuantizedLinear(nn.Linear):
    def forward(self, x):
        shift = 0 if self.bias is None else self.bias
        return Product.apply(x, self) + shift
