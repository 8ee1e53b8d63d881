# right
import torch
from torch import nn

NIBBLE = 16
CODE_BITS, COARSE, FULL = 4, 8, 32


def probit(p):  # Φ⁻¹
    return 2**0.5 * torch.erfinv(2 * p - 1)


def normal(bits):
    half = 2 ** (bits - 1)
    n = 2 * half
    inside = (1 / n + 1 / (n - 1)) / 4
    span = 0.5 - inside
    above = [0.5 + span * i / half for i in range(1, half + 1)]
    below = [0.5 - span * i / (half - 1) for i in range(half - 1, 0, -1)]
    q = probit(torch.tensor([*below, 0.5, *above], dtype=torch.float64))
    return (q / q[-1]).float()


def encode(values, levels, size):
    n = values.numel()
    count = -(-n // size)
    padded = values.new_zeros(count * size)
    padded[:n] = values.reshape(-1)
    blocks = padded.view(count, size)
    absmax = torch.linalg.vector_norm(blocks, ord=torch.inf, dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1)
    scaled = (blocks / divisor[:, None]).float()
    distance = (scaled[..., None] - levels.to(scaled)).abs()  # (blocks, size, levels)
    return distance.argmin(-1).view(-1).to(torch.uint8), absmax


def decode(codes, absmax, levels, size):
    block = torch.arange(codes.numel(), device=codes.device).div(size, rounding_mode="floor")
    return torch.take(levels.to(absmax), codes.long()).mul(absmax[block])


def quantize(tensor, quant_type="nf4", block_size=64, double_quant=True):
    codes, absmax = encode(tensor, levels_of(quant_type), block_size)
    pairs = codes[: 2 * ((tensor.numel() + 1) // 2)].unflatten(0, (-1, 2))
    result = dict(packed=pairs[:, 0] * NIBBLE + pairs[:, 1], absmax=absmax)
    if double_quant:
        result["mean"] = absmax.sum() / absmax.numel()
        second, result["absmax2"] = encode(absmax - result["mean"], DYNAMIC, GROUP)
        result["absmax"] = second[: absmax.numel()]
    return result


def dequantize(stored, shape, quant_type="nf4", block_size=64):
    n = 1
    for side in shape:
        n *= side
    packed = stored["packed"]
    codes = packed.new_empty(2 * packed.numel())
    codes[0::2] = packed // NIBBLE
    codes[1::2] = packed % NIBBLE
    absmax = stored["absmax"]
    if absmax.dtype == torch.uint8:
        absmax = decode(absmax, stored["absmax2"], DYNAMIC, GROUP).add(stored["mean"])
    return decode(codes[:n], absmax, levels_of(quant_type), block_size).reshape(tuple(shape))


def predicted_bits(block_size=64, double_quant=True):
    scale = COARSE + FULL / GROUP if double_quant else FULL
    return CODE_BITS + scale / block_size


class Product(torch.autograd.Function):
    @staticmethod
    def backward(ctx, grad):
        weight = ctx.linear.weight.type_as(grad)
        return torch.einsum("...o,oi->...i", grad, weight), None


class QuantizedLinear(nn.Linear):
    def forward(self, x):
        terms = [Product.apply(x, self)]
        if self.bias is not None:
            terms.append(self.bias)
        return sum(terms[1:], start=terms[0])
