"""Arithmetic with tasks: what fine-tuning changed in the weights, ΔW, can be added, subtracted, thinned, compressed.

    model = base()
    both = add(model, ["reverse.safetensors", "blue.safetensors"])      # W + ΔW₁ + ΔW₂
    evaluate(load(both, model), task("reverse+blue"))
    small = compress(model, both, rank=4)                               # the LoRA of rank 4 that is nearest to it
    write(small, "both.safetensors")

Deltas are given as paths or as `Delta` objects; what comes out is a `Delta` again, for `load`, `write` or the next
operation. What needs ΔW needs the base, `model`, to know it; that works with every method that changes weights, and
with several of them together. What works with the factors of LoRA needs the deltas alone.

    add           W + Σ wᵢ ΔWᵢ, exactly                        any   → Full
    ties          the same, but opposite signs do not cancel   any   → Full
    dare          the same, with most numbers dropped          any   → Full
    concatenate   Σ wᵢ ΔWᵢ, exactly, with rank Σ rᵢ            LoRA  → LoRA
    add_factors   (Σ Bᵢ)(Σ Aᵢ), which is something else        LoRA  → LoRA
    compress      the nearest matrices of rank r               any   → LoRA

Sources: 1) Task arithmetic: Ilharco et al. 2022, arXiv:2212.04089. 2) TIES: Yadav et al. 2023, arXiv:2306.01708.
         3) DARE: Yu et al. 2023, arXiv:2311.03099. 4) The nearest matrix of rank r: Eckart and Young 1936.
In peft: `add_weighted_adapter`, with combination_type "svd" for add, "ties_svd", "dare_linear_svd", "cat", "linear".
Its "ties" and "dare_linear" treat A and B as if each were a ΔW, and share the fault of "linear"; they are not here.
"""

import math
from numbers import Real
from pathlib import Path

import torch
from torch import nn

from minipeft.attach import attachments, place
from minipeft.checks import not_finite
from minipeft.deltas import Delta, DeltaError, delta_of, load, read, updates
from minipeft.methods import Full, LoRA

# ---- with ΔW ----------------------------------------------------------------------------------------------------


def changes(model, delta):
    """What a delta changes in the weights of its base: {dotted name of the weight: ΔW}.

    With QLoRA that is Ŵ + s·BA − W, so that W + ΔW is what was trained.

    Raises DeltaError if it is no change of weights (a prompt has no ΔW), belongs to another base, or is not finite.
    """
    view = load(delta, model)
    entry, found = attachments(view)[-1], updates(view)
    if len({path for path in entry.layers for name in found if f"{name}.".startswith(f"{path}.")}) < len(entry.layers):
        raise DeltaError(f"{entry.method} does more than change the base's weights, so it has no ΔW to calculate with")
    moves = {name: W - getattr(*place(model, name)).detach().to(W) + change for name, (W, change) in found.items()}
    if broken := not_finite(moves):
        raise DeltaError(f"the change of {', '.join(broken)} is not finite, so nothing can be calculated with it")
    return moves


def add(model, deltas, weights=None):
    """Task arithmetic: W + Σ wᵢ ΔWᵢ, as a Full delta of those weights that any of the tasks changes.

    On the toy base a LoRA for `reverse+plain` and one for `copy+blue` (rank 4, all matrices of the blocks, 250 steps)
    add up to one that got 54 to 88 % of the lines of `reverse+blue` right, with three seeds; alone, each gets none.
    A negative weight takes a task away. Exact up to rounding.

    Args:
        model: the bare base of all the deltas.
        deltas: a list of paths or Deltas.
        weights: wᵢ, one for each; None for 1 each. 1/n each gives the mean.

    Raises ValueError for an empty list or weights that do not fit it; DeltaError as `changes`.
    """
    deltas, weights = paired(deltas, weights)
    tasks = [changes(model, delta) for delta in deltas]
    moved = {name: parts.sum(0) for name, parts in stack(tasks, weights).items()}
    return full(model, moved, made_by("add", deltas, weights))


def ties(model, deltas, weights=None, density=0.2):
    """TIES: trim every task to its largest changes, elect a sign for each number, take the mean of those who agree.

        τᵢ = wᵢ ΔWᵢ where |ΔWᵢ| is among the largest of all the numbers that the task changes, else 0
        γ  = sign Σ τᵢ
        W' = W + mean of the τᵢ whose sign is γ, number by number

    In a sum, tasks that pull a number up and down cancel; here the heavier side has it, and is not diluted.

    Paper and library: the paper trims over the whole model, and so does this; peft over each matrix. The paper has one
    weight, λ = wᵢ for all. With several, peft elects before it weights, so that a task that is to be taken away votes
    for its own sign; here it votes for what is added.

    Args: as `add`, and
        density: which share of its numbers each task keeps, in (0, 1]; the paper's is 0.2.
    """
    deltas, weights = paired(deltas, weights)
    p = share(density)
    tasks, moved = [trimmed(changes(model, delta), p) for delta in deltas], {}
    for name, parts in stack(tasks, weights).items():  # (n, *W.shape)
        agree = parts.sign() == parts.sum(0).sign()
        moved[name] = (parts * agree).sum(0) / agree.sum(0).clamp(min=1)
    return full(model, moved, made_by("ties", deltas, weights, density=density))


def dare(model, deltas, weights=None, density=0.5, seed=0):
    """DARE: drop numbers of each ΔW by lot, and rescale those that stay, so that the expectation is that of `add`.

        W' = W + Σ wᵢ (Mᵢ ⊙ ΔWᵢ) / p        Mᵢ ~ Bernoulli(p), p = density

    What few numbers remain of each task seldom meet. How few will do is a question of how small ΔW is and how large
    the model: the paper drops 90 % and more of large fine-tuned ones. DARE on one task, `dare(model, [delta])`, may
    be followed by `ties`.

    Args: as `add`, and
        density: p, the share of numbers to keep, in (0, 1]. The paper's p is the share to drop.
        seed: of the lot.
    """
    deltas, weights = paired(deltas, weights)
    p, generator = share(density), torch.Generator().manual_seed(seed)
    tasks, moved = [changes(model, delta) for delta in deltas], {}
    for name, parts in stack(tasks, weights).items():  # (n, *W.shape)
        M = torch.bernoulli(torch.full(parts.shape, p), generator=generator).to(parts)
        moved[name] = (M * parts / p).sum(0)
    return full(model, moved, made_by("dare", deltas, weights, density=density, seed=seed))


def compress(model, delta, rank):
    """The LoRA that is nearest to a delta: of each ΔW the `rank` largest singular values and their vectors.

        ΔW = U S Vᵀ ≈ BA,  B = U_r √S_r,  A = √S_r V_rᵀ        ‖ΔW − BA‖² = Σ_{i>r} Sᵢ²

    What it costs stands in the notes of the result: `notes["error"]` is {name of the weight: ‖ΔW − BA‖/‖ΔW‖}, and 1 for
    a bias or norm, which no LoRA can hold. A rank that is high enough makes it exact, for a PiSSA of rank r: 2r.

    Raises ValueError for a bad rank; DeltaError as `changes`.
    """
    if type(rank) is not int or rank < 1:
        raise ValueError(f"rank must be a whole number of at least 1, got {rank}; 4 is a good start")
    delta = opened(delta)
    factors, error = {}, {}
    for name, change in changes(model, delta).items():
        if change.ndim < 2:
            error[name] = float(change.any())
            continue
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        turned = type(module) is nn.Embedding and kind == "weight"  # there ΔW is (BA)ᵀ
        matrix = (change.T if turned else change).flatten(1)
        U, S, Vt = torch.linalg.svd(matrix.to(torch.promote_types(matrix.dtype, torch.float32)), full_matrices=False)
        root, r = S[:rank].sqrt(), min(rank, len(S))
        inside = kind == "weight" and type(module) in (nn.Linear, nn.Embedding)  # else the weight itself is the target
        A, B = root[:, None] * Vt[:r], U[:, :r] * root  # (r, in), (out, r)
        factors[path if inside else name] = A.to(change), B.to(change)
        error[name] = float(S[r:].norm() / S.norm()) if S.any() else 0.0
    if not factors:
        raise DeltaError(f"{delta.method} changes no matrix, only {', '.join(error)}: a LoRA cannot hold that")
    return lora(factors, delta.base, {"made by": "compress", "of": delta.notes, "rank": rank, "error": error})


def relative_error(model, delta, exact):
    """How far a delta is from another, for each weight: {name: ‖ΔW − ΔW*‖/‖ΔW*‖}."""
    got, wanted = changes(model, delta), changes(model, exact)
    error = {}
    for name, (ours, theirs) in stack([got, wanted], [1, 1]).items():
        miss = (ours - theirs).norm()
        error[name] = float(miss / theirs.norm()) if miss else 0.0  # infinite where nothing was to change
    return error


# ---- with the factors of LoRA -----------------------------------------------------------------------------------


def concatenate(deltas, weights=None):
    """The exact sum of LoRAs as one LoRA: its rank is the sum of theirs.

        Σ wᵢ sᵢ BᵢAᵢ = [w₁s₁B₁ … wₙsₙBₙ] [A₁; …; Aₙ]

    Args: as `add`; no model is needed.

    Raises ValueError as `add`; DeltaError for other methods than LoRA or different bases.
    """
    deltas, weights = paired(deltas, weights)
    factors = {
        path: (torch.cat([A for _, A, _ in parts]), torch.cat([ws * B for ws, _, B in parts], dim=1))
        for path, parts in factors_of(deltas, weights).items()
    }
    return lora(factors, deltas[0].base, made_by("concatenate", deltas, weights))


def add_factors(deltas, weights=None):
    """A and B added each by itself, which is not the sum of the tasks: peft calls it "linear", others an average.

        B = Σ √|wᵢsᵢ| Bᵢ,  A = Σ ±√|wᵢsᵢ| Aᵢ        BA = Σ wᵢsᵢ BᵢAᵢ + mixed terms BᵢAⱼ

    The rank stays small, but the mixed terms are as large as what was wanted and mean nothing, unless all the Aᵢ are
    still near one common start. `relative_error(model, add_factors(deltas), add(model, deltas))` tells how large.

    Args: as `concatenate`. Raises as `concatenate`, and DeltaError if ranks differ.
    """
    deltas, weights = paired(deltas, weights)
    factors = {}
    for path, parts in factors_of(deltas, weights).items():
        if len(ranks := {len(A) for _, A, _ in parts}) > 1:
            raise DeltaError(
                f"factors of ranks {', '.join(map(str, sorted(ranks)))} at {path} cannot be added: concatenate them"
            )
        # the sign of a weight goes to one side only: on both it would cancel
        A = sum(math.copysign(math.sqrt(abs(ws)), ws) * A for ws, A, _ in parts)
        factors[path] = A, sum(math.sqrt(abs(ws)) * B for ws, _, B in parts)
    return lora(factors, deltas[0].base, made_by("add_factors", deltas, weights))


# ---- helpers ----------------------------------------------------------------------------------------------------


def opened(delta):
    return delta if isinstance(delta, Delta) else read(delta)


def paired(deltas, weights):
    """Deltas, read, and as many weights. Raises ValueError or DeltaError for what cannot be calculated with."""
    if isinstance(deltas, str | Path | Delta):
        raise ValueError("deltas are given as a list, here is a single one: put it in brackets")
    deltas = [opened(delta) for delta in deltas]
    if not deltas:
        raise ValueError("the list of deltas is empty: give at least one")
    weights = [1.0] * len(deltas) if weights is None else list(weights)
    if len(weights) != len(deltas):
        raise ValueError(f"each delta needs a weight: there are {len(deltas)} deltas and {len(weights)} weights")
    if strange := [w for w in weights if isinstance(w, bool) or not isinstance(w, Real) or not math.isfinite(w)]:
        raise ValueError(f"weights are finite numbers, one for each delta, got {strange[0]!r}")
    for i, delta in enumerate(deltas):
        if delta.base != deltas[0].base:
            raise DeltaError(
                f"delta {i + 1} of {len(deltas)}, {delta.method}, belongs to another base than the first "
                f"({delta.base[:12]}, not {deltas[0].base[:12]}): what they change cannot be added"
            )
    return deltas, weights


def share(density):
    if not 0 < density <= 1:
        raise ValueError(f"density is the share of numbers to keep, above 0 and at most 1, got {density}")
    return density


def trimmed(task, share):
    """ΔW with zeros for all but the largest share of its numbers, over all the weights together."""
    sizes = torch.cat([change.abs().flatten() for change in task.values()])
    least = sizes.topk(max(1, round(share * len(sizes)))).values[-1]
    return {name: change * (change.abs() >= least) for name, change in task.items()}


def stack(tasks, weights):
    """{name: wᵢ ΔWᵢ of all the tasks, (n, *W.shape)}, zero where a task changes nothing."""
    shaped = {name: torch.zeros_like(change) for task in tasks for name, change in task.items()}
    return {
        name: torch.stack([w * task.get(name, zero) for w, task in zip(weights, tasks, strict=True)])
        for name, zero in shaped.items()
    }


def full(model, moved, notes):
    """A Full delta that moves the named weights by so much."""
    view = Full(tuple("." + name for name in moved)).attach(model)
    weights = attachments(view)[0].layers
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(getattr(*place(model, name)) + moved[name])
    for name, weight in weights.items():
        if not torch.equal(weight, getattr(*place(model, name)) + moved[name]):
            raise DeltaError(
                f"{name} is tied to another weight of the base, and the two would change differently, which a Full "
                "delta cannot hold; give both the same change, or untie them before training"
            )
    return delta_of(view, notes)


def factors_of(deltas, weights):
    """{place: [(wᵢsᵢ, Aᵢ, Bᵢ) of all the deltas that have one there]}."""
    found = {}
    for delta, w in zip(deltas, weights, strict=True):
        if type(delta.method) is not LoRA:
            raise DeltaError(
                f"{delta.method} is no LoRA, so it has no factors A and B to calculate with; "
                "`add(model, deltas)` works with whatever changes weights, `compress(model, delta, rank)` makes a LoRA"
            )
        for path in [name.removesuffix(".A") for name in delta.tensors if name.endswith(".A")]:
            A, B = delta.tensors[f"{path}.A"], delta.tensors[f"{path}.B"]
            s = delta.method.alpha / (math.sqrt(len(A)) if delta.method.rslora else len(A))
            if not (A.isfinite().all() and B.isfinite().all()):
                raise DeltaError(f"the change of {path} is not finite, so nothing can be calculated with it")
            found.setdefault(path, []).append((w * s, A, B))
    return found


def lora(factors, base, notes):
    """A LoRA delta with ΔW = BA, whatever the ranks, from {place: (A, B)}."""
    rank = max(len(A) for A, _ in factors.values())
    others = {"." + path: len(A) for path, (A, _) in factors.items() if len(A) != rank}
    tensors = {}
    for path, (A, B) in factors.items():
        tensors[f"{path}.A"] = A.cpu().contiguous()
        tensors[f"{path}.B"] = (B * (len(A) / rank)).cpu().contiguous()  # its scale will be α/r = rank/len(A)
    return Delta(LoRA(rank, rank, tuple("." + path for path in factors), rank_pattern=others), tensors, base, notes)


def made_by(how, deltas, weights, **more):
    return {"made by": how, "of": [delta.notes for delta in deltas], "weights": weights, **more}
