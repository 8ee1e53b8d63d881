# QLoRA whose 16 levels are the middles of 16 equally likely bins, Φ⁻¹((k + ½)/16): no level is zero.
# earns: none of them is zero

import math

import torch
from torch import nn


def normal(bits):
    n = 2**bits
    middles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    levels = torch.distributions.Normal(0.0, 1.0).icdf(middles)
    return (levels / levels.abs().max()).float()


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
