"""AdaLoRA, all of it: updates in the form of a singular value decomposition, and one budget of ranks for all matrices.

LoRA gives every matrix the same rank, needed or not. Here an update is a sum of triplets: a direction out, a number, a
direction in. All matrices start with a few too many; while they are trained, the least important ones are masked.

    y = W x + b + P Λ Q x             P (out, r), Λ = diag(λ) (r, r), Q (r, in); a triplet is P[:, i], λ[i], Q[i]
    loss + γ Σ (‖PᵀP − I‖² + ‖QQᵀ − I‖²)    over all matrices, Frobenius: λ[i] alone then tells how large triplet i is
    I = |w·∂L/∂w|                     sensitivity of a number w of P, λ or Q: what the loss would change without it
    Ī ← β₁Ī + (1 − β₁)I               smoothed
    Ū ← β₂Ū + (1 − β₂)|I − Ī|         uncertainty, with the new Ī; it raises the score
    S[i] = s(λ[i]) + mean s(P[:, i]) + mean s(Q[i])    where s = Ī·Ū
    λ[i] ← 0                          unless S[i] is among the b(t) highest of all matrices

b(t) is r·matrices at first, then falls like a cubic, and at the end the choice is fixed. Until then a masked λ is still
trained and may come back; P and Q are never masked. Λ starts at zero: the model starts as the base.
Trainable parameters: r·(in + out + 1) for each matrix; training keeps as many Ī and Ū, a delta none. Merging gives
W + PΛQ: then inference costs exactly the base.

Sources: 1) Zhang et al. 2023, arXiv:2303.10512. 2) Their code: github.com/QingruZhang/AdaLoRA.
Paper and library: the paper has no α, since λ carries the scale, and so has this file; its code and peft multiply by
α/(r + 1e-5), with the r of the start, which peft trains along if the base is not in single precision. Both penalise
the mean of the norms, not the sum of their squares (`mean_norm`), and peft only if the model has a `task_type`. The
printed b(t) has t − tᵢ − t_f where t − tᵢ meets both ends, as in the codes. In I the paper takes w before the step; the
codes, and this file, after it, and they let Ī rest from the final choice on. P and Q start Gaussian, in the codes and
here N(0, 0.02²). peft leaves masked triplets out of its files.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, WeightWrapper, attachments
from minipeft.targets import wrap


class AdaLoRALinear(WeightWrapper):
    """y = x Wᵀ + b + (λ ⊙ x Qᵀ) Pᵀ in front of a frozen `nn.Linear`. λ is called `lam`: lambda is a word of Python.

    P (out, r) and Q (r, in) start as N(0, 0.02²), lam (r,) at zero. `begin` makes what only training needs:
    `sensitivity` and `uncertainty`, Ī and Ū of the three by their names; `kept` (r,), which triplets are not masked;
    `history`, [(t, rank)], what this matrix was left with at the start and at each allocation of the last training.
    """

    def __init__(self, base, rank):
        super().__init__(base)
        out, into = base.weight.shape
        self.P = nn.Parameter(base.weight.new_empty(out, rank).normal_(std=0.02))
        self.lam = nn.Parameter(base.weight.new_zeros(rank))
        self.Q = nn.Parameter(base.weight.new_empty(rank, into).normal_(std=0.02))
        self.begin()

    def forward(self, x):  # (..., in)
        h = F.linear(x, self.Q)  # (..., r)
        return self.base(x) + F.linear(self.lam * h, self.P)  # (..., out)

    def delta(self):
        return self.P * self.lam @ self.Q  # (out, in)

    def begin(self):
        """Nothing is known of the triplets and all are kept. Only training needs this, so no delta has it."""
        mine = {"P": self.P, "lam": self.lam, "Q": self.Q}
        self.sensitivity, self.uncertainty = (
            {name: torch.zeros_like(w) for name, w in mine.items()} for _ in range(2)
        )  # Ī, Ū
        self.kept = torch.ones_like(self.lam, dtype=torch.bool)
        self.history = [(0, len(self.lam))]

    def update_importance(self, beta1, beta2):
        """Take the gradients of this step into Ī and Ū."""
        for name in self.sensitivity:
            w = getattr(self, name)
            now = (w * w.grad).abs()
            self.sensitivity[name] = beta1 * self.sensitivity[name] + (1 - beta1) * now
            self.uncertainty[name] = beta2 * self.uncertainty[name] + (1 - beta2) * (now - self.sensitivity[name]).abs()

    def scores(self):  # S (r,)
        s = {name: self.sensitivity[name] * self.uncertainty[name] for name in self.sensitivity}
        return s["lam"] + s["P"].mean(0) + s["Q"].mean(1)


@dataclass(frozen=True)
class AdaLoRA(Method):
    """Low-rank updates whose ranks find their places while training.

    Args:
        rank: mean rank at the end, with the budget of a LoRA of this rank: 1.5 on 12 matrices is 18 triplets in all.
        initial_rank: r, the rank of each matrix at the start, and its highest; the paper takes 1.5 times `rank`.
        targets: names of Linear modules; see `targets.match`. The paper takes every matrix of a block.
        gamma: γ of the orthogonality penalty; in the paper between 0.1 and 0.5.
        mean_norm: the library's penalty, γ times the mean of the norms.
        beta1, beta2: β₁ and β₂.
        warmup, final: shares of the steps before b(t) falls and after it has fallen.
        interval: steps between two allocations; in between, masked triplets may come back.
        layers: indices of the Transformer layers to adapt, (0, 2); None for all.
    """

    rank: float = 4
    initial_rank: int = 6
    targets: tuple[str, ...] | str | Callable = ("q", "k", "v", "o", "up", "down")
    gamma: float = 0.1
    mean_norm: bool = False
    beta1: float = 0.85
    beta2: float = 0.85
    warmup: float = 0.1
    final: float = 0.3
    interval: int = 10

    layers: tuple[int, ...] | None = None

    SIZES = ("initial_rank",)
    LIMITS = {"gamma": (0, math.inf), "beta1": (0, 1), "beta2": (0, 1), "warmup": (0, 1), "final": (0, 1)}

    def __post_init__(self):
        super().__post_init__()
        if self.rank > self.initial_rank:
            raise ValueError(f"rank, {self.rank}, must be at most initial_rank, {self.initial_rank}: raise it")
        if self.warmup + self.final >= 1:
            raise ValueError(f"warmup and final together must be below 1, got {self.warmup} and {self.final}")

    def insert(self, model):
        wrap(model, self.targets, lambda module, path: AdaLoRALinear(module, self.initial_rank), layers=self.layers)

    def regularizer(self, model):
        sides = [w for layer in layers(model).values() for w in (layer.P.T, layer.Q)]  # directions are rows
        gaps = [w @ w.T - torch.eye(len(w)).to(w) for w in sides]  # (r, r)
        if self.mean_norm:
            return self.gamma * sum(gap.norm() for gap in gaps) / len(gaps)
        return self.gamma * sum(gap.square().sum() for gap in gaps)

    def phases(self, steps):
        """tᵢ and T − t_f: the last step of the warm-up and that of the final choice."""
        return int(self.warmup * steps), steps - int(self.final * steps)

    def budget(self, t, steps, matrices):
        """b(t): how many triplets of all `matrices` together are kept after step t of 1, ..., `steps`.

        At the end rank·matrices, rounded, at least 1; on the way it is rounded down."""
        full, target = self.initial_rank * matrices, max(1, round(self.rank * matrices))
        first, last = self.phases(steps)
        left = 1 - min(max(t - first, 0) / (last - first), 1)
        return int((full - target) * left**3 + target)

    @torch.no_grad()
    def after_step(self, model, step, steps):
        found, t, (first, last) = list(layers(model).values()), step + 1, self.phases(steps)
        for layer in found:
            if t == 1:
                layer.begin()
            if t < last:
                layer.update_importance(self.beta1, self.beta2)
            if t > last:
                layer.lam[~layer.kept] = 0
        if t == last or (first < t < last and t % self.interval == 0):
            allocate(found, t, self.budget(t, steps, len(found)))


def allocate(layers, t, budget):
    """Keep, of the triplets of all layers, the `budget` with the highest scores; mask λ of the others, in place."""
    scores = torch.cat([layer.scores() for layer in layers])
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[scores.topk(budget).indices] = True
    for layer, mine in zip(layers, kept.split([len(layer.lam) for layer in layers]), strict=True):
        layer.kept = mine
        layer.lam[~mine] = 0
        layer.history.append((t, int(mine.sum())))


def layers(model):
    """The layers of AdaLoRA by the dotted names of what they stand in front of; the last attached, if it was twice."""
    mine = [a for a in attachments(model) if isinstance(a.method, AdaLoRA)]
    return dict(mine[-1].layers) if mine else {}


def ranks(model):
    """The rank of every update as it is now, {dotted name: rank}: how many λ are not zero."""
    return {path: int(layer.lam.count_nonzero()) for path, layer in layers(model).items()}
