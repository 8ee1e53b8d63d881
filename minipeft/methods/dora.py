"""DoRA: the length and the direction of each row of W are trained apart; a LoRA turns the directions.

Full fine-tuning often changes the one much and the other little, LoRA both together; apart, either is free to move.

    W' = m ⊙ V/‖V‖,  V = W + s·B A        W, V (out, in), A (r, in), B (out, r), s = α/r, m (out)

‖V‖ (out) are the lengths of the rows, so m_i is the length of row i of W'. A starts random, uniform in ±1/√in, B at
zero, m at ‖W‖: then m/‖V‖ is 1 and the model starts as the base, bit for bit. In the gradient ‖V‖ counts as a constant
(that saves memory).
Trainable parameters: r·(in + out) + out for each matrix. Merging puts W' in the place of W: then inference costs
exactly the base; unmerged it costs two thin products per layer, and V once a pass for its lengths, however short the
input: in large layers that is felt.

Sources: 1) Liu et al. 2024, arXiv:2402.09353; the constant ‖V‖ is section 4.3.
Paper and library: the paper speaks of columns, because it writes W as (in, out); its code, peft and this file all take
the weights of one output neuron together, which `nn.Linear` holds as a row. peft's dropout, which falls on the frozen
path too, is left out here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, WeightWrapper
from minipeft.targets import wrap


def lengths(W):
    """‖W‖ (out), the lengths of the rows of W (out, in), and a tiny number where a row is zero."""
    return W.norm(dim=1).clamp(min=torch.finfo(W.dtype).tiny)


def decompose(W):
    """Magnitude (out) and direction (out, in) of the rows of W: every direction has length 1, or is zero where W is.

    Of W and of W + ΔW it shows what any method has changed: the lengths, the angles, or both.
    """
    magnitude = lengths(W)
    return magnitude, W / magnitude[:, None]


class DoRALinear(WeightWrapper):
    """y = g ⊙ (x Vᵀ) + b, g = m/‖V‖, V = W + s·B A, in front of a frozen `nn.Linear`."""

    def __init__(self, base, rank, scale):
        super().__init__(base)
        W = self.base.weight
        out, into = W.shape
        self.A = nn.Parameter(W.new_empty(rank, into))
        self.B = nn.Parameter(W.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)
        self.m = nn.Parameter(lengths(W.detach()))
        self.scale = scale

    def V(self):
        return self.base.weight + self.scale * self.B @ self.A  # (out, in)

    def g(self):
        """m/‖V‖ (out). The gradient passes through m but not through ‖V‖."""
        with torch.no_grad():
            length = lengths(self.V())
        return self.m / length

    def forward(self, x):  # (..., in)
        y, g, bias = self.base(x), self.g(), self.base.bias
        Wx = y if bias is None else y - bias
        BAx = F.linear(F.linear(x, self.A), self.scale * self.B)
        return y + (g - 1) * Wx + g * BAx  # (..., out), g ⊙ (Wx + s·BAx) + b: written so, the start is exactly y

    def delta(self):
        return self.g()[:, None] * self.V() - self.base.weight  # (out, in)


@dataclass(frozen=True)
class DoRA(Method):
    """Magnitude and direction of frozen weights, trained apart.

    Args:
        rank, alpha: r and α of the update of the direction, scaled by α/r. The paper often halves the rank of a LoRA.
        targets: names of Linear modules; see `targets.match`.
        layers: indices of the Transformer layers to adapt, (0, 2); None for all.
    """

    rank: int = 4
    alpha: float = 8
    targets: tuple[str, ...] | str | Callable = ("q", "v")
    layers: tuple[int, ...] | None = None

    SIZES = ("rank",)

    def insert(self, model):
        scale = self.alpha / self.rank
        wrap(model, self.targets, lambda module, path: DoRALinear(module, self.rank, scale), layers=self.layers)
