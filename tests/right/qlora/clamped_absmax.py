# absmax with a floor that is far below every weight, as in bitsandbytes; the whole weight as a matrix of blocks.

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
    pad = -values.numel() % size
    blocks = torch.cat([values.ravel(), torch.zeros(pad).to(values)]).unflatten(0, (-1, size))
    absmax = torch.linalg.vector_norm(blocks, ord=float("inf"), dim=1).clamp_min(1e-38)
    table = levels.to(values)
    borders = table[:-1] + (table[1:] - table[:-1]) / 2
    codes = (blocks[..., None] > borders * absmax[:, None, None]).sum(-1)
    return codes.flatten().byte(), absmax


def decode(codes, absmax, levels, size):
    n = len(codes)
    pad = -n % size
    grid = torch.cat([codes, codes.new_zeros(pad)]).view(-1, size)
    return (levels.to(absmax)[grid.long()] * absmax[: len(grid), None]).flatten()[:n]


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
        W = ctx.linear.weight
        return torch.matmul(grad, W.to(grad.dtype)), None


class QuantizedLinear(nn.Linear):
    def forward(self, x):
        out = Product.apply(x, self)
        if self.bias is not None:
            out = out + self.bias
        return out
