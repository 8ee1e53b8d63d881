# right (the text from which the wrong ones were made)
import torch
import torch.nn.functional as F
from torch import nn


def normal(bits):
    n = 2**bits
    offset = 1 - 0.5 * (1 / (2 * n) + 1 / (2 * (n - 1)))
    quantile = torch.special.ndtri
    up = quantile(torch.linspace(0.5, offset, n // 2 + 1, dtype=torch.float64))[1:]
    down = -quantile(torch.linspace(0.5, offset, n // 2, dtype=torch.float64))[1:]
    levels = torch.cat([down.flip(0), torch.zeros(1, dtype=torch.float64), up])
    return (levels / levels.max()).to(torch.float32)


def encode(values, levels, size):
    flat_values = values.reshape(-1)
    missing = (size - flat_values.numel() % size) % size
    blocks = F.pad(flat_values, (0, missing)).reshape(-1, size)
    absmax = blocks.abs().max(dim=1).values
    safe = torch.where(absmax == 0, torch.ones_like(absmax), absmax)
    borders = ((levels[:-1] + levels[1:]) / 2).to(blocks)
    codes = torch.bucketize(blocks / safe.unsqueeze(1), borders)
    return codes.reshape(-1).to(torch.uint8), absmax


def decode(codes, absmax, levels, size):
    scale = absmax.repeat_interleave(size)[: codes.numel()]
    return levels.to(absmax)[codes.to(torch.long)] * scale


def quantize(tensor, quant_type="nf4", block_size=64, double_quant=True):
    codes, absmax = encode(tensor, levels_of(quant_type), block_size)
    count = tensor.numel() + tensor.numel() % 2
    high, low = codes[:count].view(-1, 2).unbind(1)
    stored = {"packed": (high << 4) | low, "absmax": absmax}
    if double_quant:
        mean = absmax.mean()
        codes2, absmax2 = encode(absmax - mean, DYNAMIC, GROUP)
        stored["absmax"] = codes2[: absmax.numel()]
        stored["mean"], stored["absmax2"] = mean, absmax2
    return stored


def dequantize(stored, shape, quant_type="nf4", block_size=64):
    scales = stored["absmax"]
    if "absmax2" in stored:
        scales = stored["mean"] + decode(scales, stored["absmax2"], DYNAMIC, GROUP)
    packed = stored["packed"]
    codes = torch.stack((packed >> 4, packed & 0b1111), dim=-1).view(-1)
    total = torch.Size(shape).numel()
    return decode(codes[:total], scales, levels_of(quant_type), block_size).view(shape)


def predicted_bits(block_size=64, double_quant=True):
    if double_quant:
        return 4 + 8 / block_size + 32 / (block_size * GROUP)
    return 4 + 32 / block_size


class Product(torch.autograd.Function):
    @staticmethod
    def backward(ctx, grad):
        W = ctx.linear.weight
        return grad @ W.to(grad.dtype), None


class QuantizedLinear(nn.Linear):
    def forward(self, x):
        out = Product.apply(x, self)
        if self.bias is not None:
            out = out + self.bias
        return out
