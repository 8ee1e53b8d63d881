"""LoRA, all of it: the layers, where they go, how they are merged.

The change that a task needs in a weight has low rank. So W stays frozen, and a product of two thin matrices is added:

    y = W x + b + s·B A x        A (r, in), B (out, r), s = α/r; rsLoRA: s = α/√r

A starts random, B at zero, so the model starts as the base, and at first only B has a gradient (∂A has a factor B).
Trainable parameters: r·(in + out) for each matrix. Merging gives W + s·BA: then inference costs exactly the base;
unmerged it costs two thin products per layer. Dropout acts on the input of A and never on the frozen path.

Sources: 1) Hu et al. 2021, arXiv:2106.09685. 2) rsLoRA: Kalajdzievski 2023, arXiv:2312.03732.
         3) LoRA+: Hayou, Ghosh, Yu 2024, arXiv:2402.12354.
Paper and library: the paper draws A from a Gaussian; loralib, peft and this file from U(−1/√in, 1/√in). For an
embedding all three start A at zero and B random. For a convolution this file and peft take A as the convolution (r, in,
k, k) and B as 1×1, loralib other shapes; peft forgets the base's dilation and padding mode there, here A has them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, WeightWrapper, bottom, trainable
from minipeft.targets import match, wrap


class LoRALinear(WeightWrapper):
    """y = x Wᵀ + b + s·drop(x) Aᵀ Bᵀ in front of a frozen `nn.Linear`."""

    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        out, into = base.weight.shape
        self.A = nn.Parameter(base.weight.new_empty(rank, into))
        self.B = nn.Parameter(base.weight.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)
        self.scale, self.dropout = scale, nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x):  # (..., in)
        h = F.linear(self.dropout(x), self.A)  # (..., r)
        return self.base(x) + F.linear(h, self.scale * self.B)  # (..., out)

    def delta(self):
        return self.scale * self.B @ self.A  # (out, in)


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank updates beside frozen weights.

    Args:
        rank, alpha: r and α. The update is scaled by α/r, so one learning rate suits several small ranks.
        targets: names of modules (Linear, Embedding, Conv2d) or weights, or "all-linear"; see `targets.match`.
        dropout: on the input of A, while training; Linear and Conv2d only.
        rank_pattern: other ranks for some of the targets, {"v": 8}; if two names fit, the one with more dots counts.
        rslora: scale by α/√r, which keeps large ranks from being damped.
        lr_ratio: LoRA+: B learns this many times faster than A; the paper proposes 16.
        layers: indices of the Transformer layers to adapt, (0, 2); None for all.
    """

    rank: int = 4
    alpha: float = 8
    targets: tuple[str, ...] | str | Callable = ("q", "v")
    dropout: float = 0.0
    rank_pattern: dict[str, int] = field(default_factory=dict)
    rslora: bool = False
    lr_ratio: float = 1.0
    layers: tuple[int, ...] | None = None

    LIMITS = {"dropout": (0, 1)}
    SIZES = ("rank", "rank_pattern")
    KINDS = nn.Linear, nn.Embedding, nn.Conv2d, nn.Parameter

    def insert(self, model):
        wanted = {path for path, *_ in match(model, self.targets)}
        ranks = dict.fromkeys(wanted, self.rank)
        for name, rank in sorted(self.rank_pattern.items(), key=lambda item: item[0].count(".")):
            paths = {path for path, *_ in match(model, (name,))}
            if idle := sorted(paths - wanted):
                raise ValueError(f"rank_pattern names {', '.join(idle)}, which targets does not; add it there")
            ranks |= dict.fromkeys(paths, rank)
        wrap(model, self.targets, lambda module, path: self.layer(module, ranks[path]), self.KINDS, self.layers)

    def layer(self, module, rank):
        scale = self.scale(rank)
        if isinstance(module, nn.Parameter):
            return LoRAWeight(module, rank, scale)
        if isinstance(bottom(module), nn.Embedding):
            return LoRAEmbedding(module, rank, scale)
        layer = LoRAConv2d if isinstance(bottom(module), nn.Conv2d) else LoRALinear
        return layer(module, rank, scale, self.dropout)

    def scale(self, rank):
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)  # s

    def groups(self, model, lr):
        # LoRA+: η_B = λ·η_A
        slow = [p for name, p in trainable(model).items() if not name.endswith(".B")]
        fast = [p for name, p in trainable(model).items() if name.endswith(".B")]
        return [{"params": slow, "lr": lr}, {"params": fast, "lr": lr * self.lr_ratio}]


class LoRAEmbedding(WeightWrapper):
    """y = E[i] + s·B A[:, i] in front of a frozen `nn.Embedding` (V, d). Here A is zero at the start, B random."""

    def __init__(self, base, rank, scale):
        super().__init__(base)
        vocab, dim = base.weight.shape
        self.A = nn.Parameter(base.weight.new_zeros(rank, vocab))
        self.B = nn.Parameter(base.weight.new_empty(dim, rank).normal_())
        self.scale = scale

    def forward(self, tokens):  # (...)
        h = F.embedding(tokens, self.A.T, self.padding_idx)  # (..., r); no gradient at padding, as in the base
        return self.base(tokens) + F.linear(self.scale * h, self.B)  # (..., d)

    def delta(self):
        return self.scale * (self.B @ self.A).T  # (V, d)


class LoRAConv2d(WeightWrapper):
    """y = W∗x + b + s·B (A∗drop(x)) in front of a frozen `nn.Conv2d`: A is k×k with r channels, B is 1×1."""

    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        if base.groups != 1:
            raise ValueError(f"LoRA needs a convolution with groups=1, got {base.groups}; leave it out of targets")
        out, into, height, width = base.weight.shape
        self.A = nn.Parameter(base.weight.new_empty(rank, into, height, width))
        self.B = nn.Parameter(base.weight.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale, self.dropout = scale, nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x):  # (B, in, Y, X)
        h = self.base._conv_forward(self.dropout(x), self.A, None)  # (B, r, Y', X'), strided and padded as the base
        return self.base(x) + F.conv2d(self.scale * h, self.B[:, :, None, None])  # (B, out, Y', X')

    def delta(self):
        return self.scale * (self.B @ self.A.flatten(1)).view_as(self.base.weight)  # (out, in, k, k)


class LoRAWeight(nn.Module):
    """W + s·BA for a weight of any module, an LSTM's `weight_ih_l0` (4h, in), say; see `targets.reweight`."""

    def __init__(self, weight, rank, scale):
        super().__init__()
        if weight.ndim < 2:
            raise TypeError(f"LoRA needs a matrix, got a weight of shape {tuple(weight.shape)}")
        self.shape, self.scale = weight.shape, scale
        self.A = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        self.B = nn.Parameter(weight.new_zeros(len(weight), rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, weight):
        return weight + self.delta()

    def delta(self):
        return self.scale * (self.B @ self.A).view(self.shape)
