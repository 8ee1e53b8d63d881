# Borders with `searchsorted`, two codes in a byte by arithmetic, the backward pass by `tensordot`.

import math

import torch
from torch import nn


def normal(bits):
    count = 2**bits
    offset = 1 - 0.5 * (1 / (2 * count) + 1 / (2 * count - 2))
    quantile = torch.special.ndtri
    positive = quantile(torch.linspace(offset, 0.5, count // 2 + 1, dtype=torch.float64)[:-1])
    negative = -quantile(torch.linspace(offset, 0.5, count // 2, dtype=torch.float64)[:-1])
    levels = torch.cat([positive, torch.zeros(1, dtype=torch.float64), negative]).sort().values
    return (levels / levels.max()).to(torch.float32)


def encode(values, levels, size):
    flat = values.reshape(-1)
    missing = (size - len(flat) % size) % size
    flat = torch.cat([flat, flat.new_zeros(missing)])
    blocks = flat.reshape(-1, size)
    absmax = blocks.abs().max(dim=1).values
    safe = absmax.clamp_min(1e-30)
    borders = (levels[:-1] + levels[1:]).to(values.dtype) / 2
    codes = torch.searchsorted(borders, (blocks / safe[:, None]).contiguous())
    return codes.to(torch.uint8).reshape(-1), absmax


def decode(codes, absmax, levels, size):
    which = torch.arange(len(codes), device=codes.device) // size
    return levels.to(absmax.dtype)[codes.int()] * absmax[which]


def quantize(tensor, quant_type="nf4", block_size=64, double_quant=True):
    codes, absmax = encode(tensor, levels_of(quant_type), block_size)
    n = tensor.numel()
    pairs = codes[: n + n % 2].reshape(-1, 2)
    stored = {"packed": pairs[:, 0] * 16 + pairs[:, 1]}
    if double_quant:
        stored["mean"] = absmax.mean()
        again, stored["absmax2"] = encode(absmax - stored["mean"], DYNAMIC, GROUP)
        stored["absmax"] = again[: absmax.numel()]
    else:
        stored["absmax"] = absmax
    return stored


def dequantize(stored, shape, quant_type="nf4", block_size=64):
    packed, absmax = stored["packed"], stored["absmax"]
    if "absmax2" in stored:
        absmax = stored["mean"] + decode(absmax, stored["absmax2"], DYNAMIC, GROUP)
    n = math.prod(shape)
    codes = packed.new_empty(2 * len(packed))
    codes[::2] = packed // 16
    codes[1::2] = packed % 16
    return decode(codes[:n], absmax, levels_of(quant_type), block_size).reshape(shape)


def predicted_bits(block_size=64, double_quant=True):
    per_weight = 4.0
    if double_quant:
        per_weight += 8 / block_size
        per_weight += 32 / block_size / GROUP
    else:
        per_weight += 32 / block_size
    return per_weight


class Product(torch.autograd.Function):
    @staticmethod
    def backward(ctx, grad):
        W = ctx.linear.weight.type_as(grad)
        into = torch.tensordot(grad, W, dims=([-1], [0]))
        return into, None


class QuantizedLinear(nn.Linear):
    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        y = Product.apply(rows, self)
        if self.bias is not None:
            y = torch.add(y, self.bias)
        return y.reshape(*x.shape[:-1], self.out_features)
