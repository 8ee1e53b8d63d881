# QLoRA that counts the bits as if a scale of 32 bits belonged to each 256 blocks and each block had one of 8 bytes.
# earns: a code of absmax is counted with

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
    safe = torch.where(absmax == 0, torch.ones_like(absmax), absmax)
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
    if not double_quant:
        return 4 + 32 / block_size
    return 4 + 64 / block_size + 32 / (block_size * GROUP)


class Product(torch.autograd.Function):
    @staticmethod
    def backward(ctx, grad):
        W = ctx.linear.weight
        return torch.matmul(grad, W.to(grad.dtype)), None


class QuantizedLinear(nn.Linear):
    def forward(self, x):
        out = Product.apply(x, self)
        if self.bias is not None:
            out = out + self.bias
        return out
