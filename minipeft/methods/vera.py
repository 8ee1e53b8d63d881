"""VeRA: a low-rank update like LoRA's, but the two matrices are random, frozen and the same in every layer.

What a layer learns is two vectors that say how much of each random direction it takes in and gives out:

    y = W x + c + Λ_b B Λ_d A x        A (r, in), B (out, r) frozen; Λ_d = diag(d), d (r); Λ_b = diag(b), b (out)

(c is the bias of the frozen layer.) b starts at zero, so the model starts as the base; every element of d at 0.1. At
the first step only b has a gradient (∂d has a factor b). Trainable parameters: r + out for each matrix; that grows
slowly with r, so r is chosen large. Merging gives W + Λ_b B Λ_d A: then inference costs exactly the base; unmerged it
costs the two products of a LoRA of that large rank.

A and B come from `seed`, so a delta holds the vectors alone. They are drawn in 32 bits on the CPU by a generator of
their own: the same whatever the model's device and type, and whatever else draws random numbers.

Sources: 1) Kopiczko, Blankevoort, Asano 2023, arXiv:2310.11454. 2) layers of different widths: proposed by the first
author in github.com/huggingface/peft/issues/1816.
Paper and library: one pair does not fit layers of different widths. So peft, and this file, draw A and B as large as
the largest targets need, and a layer takes the first columns of A and the first rows of B. The same seed gives the same
A and B here as there, but peft stores them in the delta too unless told not to (`save_projection=False`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, WeightWrapper, bottom
from minipeft.targets import match, wrap


class Shared(nn.Module):
    """A (r, in) and B (out, r) for all layers, uniform in ±√(6/fan_in): buffers, which no delta stores.

    A module, so that a move keeps them shared.
    """

    def __init__(self, rank, into, out, seed):
        super().__init__()
        dice = torch.Generator("cpu").manual_seed(seed)
        for name, shape in (("A", (rank, into)), ("B", (out, rank))):
            matrix = torch.empty(shape, dtype=torch.float32, device="cpu")
            nn.init.kaiming_uniform_(matrix, generator=dice)
            self.register_buffer(name, matrix, persistent=False)  # not part of a delta


class VeRALinear(WeightWrapper):
    """y = x Wᵀ + c + b ⊙ ((d ⊙ x Aᵀ) Bᵀ) in front of a frozen `nn.Linear`."""

    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(base.weight.new_full((len(shared.A),), d_initial))  # (r)
        self.b = nn.Parameter(base.weight.new_zeros(len(base.weight)))  # (out)

    def matrices(self):
        return self.shared.A[:, : self.in_features], self.shared.B[: self.out_features]  # (r, in), (out, r)

    def forward(self, x):  # (..., in)
        A, B = self.matrices()
        h = self.d * F.linear(x, A)  # (..., r)
        return self.base(x) + self.b * F.linear(h, B)  # (..., out)

    def delta(self):
        A, B = self.matrices()
        return (self.b[:, None] * B) @ (self.d[:, None] * A)  # (out, in)


@dataclass(frozen=True)
class VeRA(Method):
    """Learned vectors around one frozen random pair of matrices.

    Args:
        rank: r; the paper takes 256 to 1024, of the order of the model's width.
        targets: names of Linear modules; see `targets.match`.
        d_initial: what d starts at.
        seed: A and B come from it; two deltas with the same seed, rank and targets share them.
        layers: indices of the Transformer layers to adapt, (0, 2); None for all.
    """

    rank: int = 64
    targets: tuple[str, ...] | str | Callable = ("q", "v")
    d_initial: float = 0.1
    seed: int = 0
    layers: tuple[int, ...] | None = None

    SIZES = ("rank",)
    LIMITS = {"seed": (0, math.inf)}

    def insert(self, model):
        """One pair for all, as large as the largest weights need, in their type and where they are."""
        modules = [bottom(getattr(parent, name)) for _, parent, name in match(model, self.targets, self.layers)]
        linear = [module for module in modules if isinstance(module, nn.Linear)]  # `wrap` refuses the others
        into, out = (max((getattr(m, side) for m in linear), default=1) for side in ("in_features", "out_features"))
        shared = Shared(self.rank, into, out, self.seed)

        def make(module, path):
            return VeRALinear(module, shared.to(bottom(module).weight), self.d_initial)

        wrap(model, self.targets, make, layers=self.layers)
