"""PiSSA: a LoRA that starts as the largest part of W itself; what is frozen is the rest.

LoRA starts with a random A and B = 0, so its first steps are small and point anywhere. The singular vectors with the
largest singular values carry most of W: trained directly, they move at once, and along directions that matter.

    W = U S Vᵀ = B₀A₀ + R,  B₀ = U_r √S_r (out, r),  A₀ = √S_r V_rᵀ (r, in)        R (out, in) is frozen
    y = x Rᵀ + b + x Aᵀ Bᵀ,  with A, B trained from A₀, B₀

At the start BA + R is W up to rounding: in 32 bits the outputs of a layer differ by 1e-7 to 5e-7 of their size.
Trainable parameters: r·(in + out) for each matrix, as in LoRA. Merging gives R + BA: then inference costs exactly the
base; unmerged it costs two thin products per layer. R takes the memory of W once more, since the base keeps W.

A delta holds A and B; R follows from the base and is computed again. The signs of singular vectors are arbitrary but
cancel in B₀A₀, so R does not depend on them (were S_r = S_{r+1}, the vectors themselves would be arbitrary, and R too).
Only with R do A and B mean anything: on another base they would stand in for a largest part that is not theirs. What
can be carried over is ΔW = BA − B₀A₀, a LoRA of rank 2r: `arithmetic.compress(model, delta, rank=2 * r)` finds it.

Sources: 1) Meng, Wang, Zhang 2024, arXiv:2404.02948.
Paper and library: peft scales BA by α/r, divides S by it at the start, and overwrites W by R; the paper and this file
have no scale (α = r). Asked to, peft saves that LoRA of rank 2r; what it saves otherwise gives another model on W.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, WeightWrapper, bottom
from minipeft.targets import wrap


def split(W, rank):
    """A₀ (r, in), B₀ (out, r) and R (out, in) of a weight W (out, in), in its type.

    Found in double precision and on the CPU, so that every machine that loads a delta finds the same R.
    """
    exact = W.detach().cpu().double()
    U, S, Vt = torch.linalg.svd(exact, full_matrices=False)  # (out, k), (k), (k, in), k = min(out, in)
    root = S[:rank].sqrt()
    A = (root[:, None] * Vt[:rank]).to(W)
    B = (U[:, :rank] * root).to(W)
    R = exact - B.cpu().double() @ A.cpu().double()  # of A and B as they are rounded
    return A, B, R.to(W)


class PiSSALinear(WeightWrapper):
    """y = x Rᵀ + b + x Aᵀ Bᵀ in front of a frozen `nn.Linear`; at the start R + BA = W.

    R is a buffer that is not stored.
    """

    def __init__(self, base, rank):
        super().__init__(base)
        A, B, R = split(self.base.weight, rank)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("R", R, persistent=False)

    def forward(self, x):  # (..., in)
        h = F.linear(x, self.A)  # (..., r)
        return F.linear(x, self.R, self.base.bias) + F.linear(h, self.B)  # (..., out)

    def delta(self):
        return self.R + self.B @ self.A - self.base.weight  # (out, in)


@dataclass(frozen=True)
class PiSSA(Method):
    """The principal singular values and vectors of the weights are trained, the rest is frozen.

    Args:
        rank: how many of them.
        targets: names of Linear modules; see `targets.match`. The paper takes all in the blocks.
        layers: indices of the Transformer layers to adapt, (0, 2); None for all.
    """

    rank: int = 4
    targets: tuple[str, ...] | str | Callable = ("q", "v")
    layers: tuple[int, ...] | None = None

    SIZES = ("rank",)

    def insert(self, model):
        wrap(model, self.targets, self.layer, layers=self.layers)

    def layer(self, module, path):
        if self.rank > (most := min(bottom(module).weight.shape)):
            raise ValueError(f"{path!r} has only {most} singular values, got rank={self.rank}; lower the rank")
        return PiSSALinear(module, self.rank)
