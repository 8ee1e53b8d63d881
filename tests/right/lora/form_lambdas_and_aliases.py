# Constants, aliases, lambdas, a partial and helpers at module level; a stub that is an assigned lambda.
from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Optional

import numpy as np
import torch
import torch.nn as nn
from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor as T

try:
    import einops
except ImportError:
    einops = None

try:
    from torch.nn.functional import linear as multiply
except ImportError:
    print("an old torch")

    def multiply(x, W):
        return x @ W.T


SQRT = math.sqrt
EPS = torch.finfo(torch.float32).eps
HALF, DOUBLE = 0.5, 2.0
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WIDTH: float = DOUBLE * HALF
uniform = functools.partial(nn.init.uniform_)
product = lambda P, Q: P @ Q
Parameter = nn.Parameter
ONE = np.float64(1.0)
NAMES = {"small": HALF, "large": [DOUBLE, *(ONE, ONE)]}
Table = None


@functools.lru_cache(maxsize=None)
def bound(n: int) -> float:
    return WIDTH / SQRT(n)


class Scaled:
    """A helper of the student's own."""

    factor: Optional[float] = None

    def __init__(self, s: float):
        self.s = s

    def __call__(self, t: T) -> T:
        return ONE * self.s * t


Times = Scaled


class LoRALinear(WeightWrapper):
    TWO = 2
    FOUR = TWO * 2

    class Drop(nn.Dropout):
        """A nested class."""

    def __init__(self, base, rank: int, scale: float = ONE, dropout: float = 0.0, *, more: Optional[T] = None):
        super().__init__(base)
        rows, columns = base.weight.shape
        make = functools.partial(torch.zeros, dtype=base.weight.dtype, device=base.weight.device)
        self.A, self.B = Parameter(make(rank, columns)), Parameter(make(rows, rank))
        uniform(self.A, -bound(columns), bound(columns))
        self.scale, self.dropout = scale, self.Drop(dropout)

    forward = lambda self, x: self.base(x) + Times(self.scale)(multiply(multiply(self.dropout(x), self.A), self.B))
    delta = lambda self: Scaled(self.scale)(product(self.B, self.A)) * self.FOUR / LoRALinear.TWO**2


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens: Float[T, "B T"]) -> Float[T, "B T d"]:
        return self.base(tokens) + self.scale * multiply(nn.functional.embedding(tokens, self.A.T, self.padding_idx), self.B)

    def delta(self) -> "Float[T, 'V d']":
        return product(self.A.T, self.B.T) * self.scale


class LoRA(Method):
    def scale(self, rank):
        return np.float64(self.alpha) / np.sqrt(rank if self.rslora else rank**2)

    def groups(self, model, lr):
        by_name = trainable(model)
        is_fast = lambda name: name.rpartition(".")[2] == "B"
        return [
            {"params": [p for n, p in by_name.items() if is_fast(n) is fast], "lr": lr * (self.lr_ratio if fast else 1)}
            for fast in (False, True)
        ]


if __name__ == "__main__":
    layer = LoRALinear(nn.Linear(3, 2), 1, 1.0)
    print(layer)
