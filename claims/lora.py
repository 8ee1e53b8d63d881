"""LoRA: where to put it, how low its rank may be, which learning rate it wants, and how it compares with full
fine-tuning."""

import copy
import math
from dataclasses import dataclass, replace
from statistics import mean
from typing import Literal

import numpy as np
import torch
from torch import nn

from claims.ledger import HELD_OUT, MEASURES, NEW, Measure, claim, log_loss, log_steps, told
from claims.planted import imitate
from minipeft import plots
from minipeft.bases import base as shipped
from minipeft.costs import measure as weigh
from minipeft.lab import trial
from minipeft.methods import Full, LoRA
from minipeft.training import Recipe, evaluate

MATRICES = ("q", "k", "v", "o", "up", "down")
ATTENTION, FEED_FORWARD = MATRICES[:4], MATRICES[4:]
SHORT = Recipe(steps=150)  # after 500 steps nearly everything has learned the table, and losses no longer differ
HALF = Recipe(steps=250)  # enough for a few examples


def typical(entry):
    """The geometric mean of the test losses, as text."""
    return f"{10 ** mean(log_loss(run) for run in entry.runs):.2g}"


def percent(share, digits=0):
    return f"{100 * share:.{digits}f} %"


@dataclass(frozen=True)
class OtherStart(LoRA):
    """LoRA that starts with `random` drawn at random, the other matrix at zero. fixed: only the other one is trained.

    The random matrix is drawn as PyTorch draws a layer's weight: from U(−1/√n, 1/√n), where n is its number of columns.
    """

    random: Literal["A", "B"] = "B"
    fixed: bool = False

    def layer(self, module, rank):
        made = super().layer(module, rank)
        start = getattr(made, self.random)
        nn.init.zeros_(made.A)
        nn.init.zeros_(made.B)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5))
        start.requires_grad_(not self.fixed)
        return made


# -- where to put it ---------------------------------------------------------------------------------------------------


@claim(
    "At an equal budget, adapting q and v together beats adapting one matrix",
    source="Hu et al. 2022, LoRA, §7.1 and table 5, arXiv:2106.09685",
    quote="Adapting both Wq and Wv gives the best performance overall.",
    lesson=11,
)
def where(f):
    """2,048 numbers in different places, on a table that the base has never seen: rank 8 in one matrix, 4 in two."""
    places = [("q", "v"), ("q",), ("k",), ("v",), ("o",), ("up",), ("down",)]
    ranks = {"up": 3, "down": 3}  # these matrices are longer: as many numbers, nearly
    entries = {}
    for place in places:
        rank = ranks.get(place[0], 8 // len(place))
        entries[" and ".join(place)] = LoRA(rank=rank, alpha=2 * rank, targets=place)
    runs = f.race(entries, goal=NEW, tuned_by="area")
    for other in ("v", "o"):
        f.ahead(f"q and v reach 90 % in fewer steps than {other} alone", runs["q and v"], runs[other], by="steps")
    for other in ("q", "k"):
        f.oftener(f"q and v succeed more often than {other} alone", runs["q and v"], runs[other])
    for other in ("up", "down"):
        f.ahead(f"q and v are faster than {other} alone", runs["q and v"], runs[other], "steps", aside=True)
    solved = [name for name, entry in runs.items() if min(entry.column("accuracy")) > 0.9]
    steps = "; ".join(f"{name}: {2 ** mean(map(log_steps, runs[name].runs)):.0f}" for name in solved)
    f.result = f"Where every seed arrives, the geometric mean of the steps to 90 % is: {steps}."


@claim(
    "With as many numbers, LoRA on all linear layers beats attention alone and the feed-forward layers alone",
    source="Schulman and Thinking Machines Lab 2025, LoRA Without Regret, thinkingmachines.ai/blog/lora; Dettmers et "
    "al. 2023, QLoRA, §4, arXiv:2305.14314, which does not hold the numbers equal",
    lesson=11,
)
def all_linear(f):
    """About 2,304 numbers on all six kinds of matrices, on the four of attention, or on the two of the feed-forward
    layers. The task is a new table; 150 steps, because more steps let nearly every placement succeed. The second budget
    is 9,216 numbers."""
    small = {
        "all six": LoRA(rank=1, alpha=2, targets=MATRICES),  # 2,304
        "attention": LoRA(rank=2, alpha=4, targets=ATTENTION, rank_pattern={"v": 3}),  # 2,304
        "feed-forward": LoRA(rank=2, alpha=4, targets=FEED_FORWARD),  # 2,560
    }
    large = {
        "all six, 9,216 numbers": LoRA(rank=4, alpha=8, targets=MATRICES),
        "attention, 9,216 numbers": LoRA(rank=9, alpha=18, targets=ATTENTION),
    }
    runs = f.race(small | large, goal=NEW, recipe=SHORT)
    for other in ("attention", "feed-forward"):
        f.ahead(f"All six reach a lower test loss than {other} alone", runs["all six"], runs[other], by="loss")
    first, second = (runs[name] for name in large)
    f.ahead("With 9,216 numbers, all six are ahead of attention too", first, second, by="loss", aside=True)
    losses = ", ".join(f"{typical(entry)} on {name}" for name, entry in runs.items() if name in small)
    f.result = (
        f"After 150 steps, the test loss of LoRA with about 2,304 numbers is {losses}; "
        f"with 9,216 numbers it is {typical(first)} on all six and {typical(second)} on attention."
    )


# -- how low the rank may be -------------------------------------------------------------------------------------------

CUTS = ("1", "2", "4", "8", "16", "32")


def spectrum(view, base, goal):
    """How much of each ΔW lies in its k largest singular values, and what the model does with these alone.

    energy: {k: share of ‖ΔW‖² in the first k, mean over matrices}; shuffled: the same with the numbers of each ΔW in
    random places; kind: {q, k, ...: energy of the first 8}. kept: {k: accuracy with the first k alone}; removed:
    {k: accuracy without the first k}.
    """
    generator, moves = torch.Generator().manual_seed(0), {}
    for (name, new), old in zip(view.named_parameters(), base.parameters(), strict=True):
        if (move := new.detach() - old).any():
            moves[name] = move
    parts = {name: torch.linalg.svd(move, full_matrices=False) for name, move in moves.items() if move.ndim == 2}
    mixed = [moves[n].flatten()[torch.randperm(moves[n].numel(), generator=generator)].view_as(moves[n]) for n in parts]
    held = {name: held_by(S) for name, (_, S, _) in parts.items()}
    by_chance = [held_by(torch.linalg.svdvals(move)) for move in mixed]
    return {
        "energy": {k: mean(shares[k] for shares in held.values()) for k in CUTS},
        "shuffled": {k: mean(shares[k] for shares in by_chance) for k in CUTS},
        "kind": {m: mean(shares["8"] for name, shares in held.items() if f".{m}." in name) for m in MATRICES},
        "kept": {k: accuracy_with(base, moves, parts, slice(int(k)), goal) for k in CUTS},
        "removed": {k: accuracy_with(base, moves, parts, slice(int(k), None), goal) for k in CUTS},
    }


def held_by(S):
    """{k: share of the sum of squares in the first k}"""
    shares = (S**2).cumsum(0) / (S**2).sum()
    return {k: shares[int(k) - 1].item() for k in CUTS}


@torch.no_grad()
def accuracy_with(base, moves, parts, some, goal):
    """Of the base with all changes, but of each matrix's change only some of the singular values."""
    model = copy.deepcopy(base)
    for name, p in model.named_parameters():
        if name in parts:
            U, S, V = parts[name]
            p += U[:, some] * S[some] @ V[some]
        elif name in moves:
            p += moves[name]
    return evaluate(model, goal).accuracy


@claim(
    "The change that full fine-tuning makes to a weight has a low rank",
    source="Hu et al. 2022, LoRA, §4.1, arXiv:2106.09685",
    lesson=11,
)
def low_rank_change(f):
    """Full fine-tuning of all twelve matrices. Then each change ΔW is cut to its k largest singular values. Low rank
    would mean that an eighth of them, 8 of 64, holds 90 % of ‖ΔW‖² and brings 90 % of the accuracy. For comparison, the
    numbers of each ΔW are put in random places, which leaves their norm as it is."""
    full = Full(targets=MATRICES)
    runs = f.race({str(goal): {"method": full, "goal": goal} for goal in (NEW, HELD_OUT)}, look=spectrum)
    runs |= f.race({f"{NEW} at 0.001": {"method": full, "goal": NEW}}, lr=1e-3, look=spectrum)
    rows = []
    for name, entry in runs.items():
        columns = {key: entry.column(key) for key in ("energy", "shuffled", "kept", "removed")}
        energy, kept = ([found["8"] for found in columns[key]] for key in ("energy", "kept"))
        enough = [k >= 0.9 * whole for k, whole in zip(kept, entry.column("accuracy"), strict=True)]
        aside = name != str(NEW)
        f.always(f"{name}: 8 of 64 hold 90 % of ‖ΔW‖²", [e >= 0.9 for e in energy], f"they hold {told(energy)}", aside)
        f.always(f"{name}: 8 of 64 bring 90 % of the accuracy", enough, f"with them {told(kept)}", aside)
        rows += [
            (name, what, *(told([found[k] for found in columns[key]]) for k in CUTS)) for key, what in SHOWN.items()
        ]
    f.table("The k largest singular values of each ΔW", ("", "", *(f"k = {k}" for k in CUTS)), rows)
    kinds = [(name, *(told([k[m] for k in entry.column("kind")]) for m in MATRICES)) for name, entry in runs.items()]
    f.table("Share of ‖ΔW‖² in 8 of 64 singular values, by matrix", ("", *MATRICES), kinds)
    f.note("The paper gives no threshold; 90 % was fixed before the first run.")
    energy, chance, kept = (
        mean(run[key]["8"] for run in runs[str(NEW)].runs) for key in ("energy", "shuffled", "kept")
    )
    f.result = (
        f"On {NEW}, 8 of 64 singular values hold {percent(energy)} of ‖ΔW‖²; with the same numbers in random places, "
        f"they hold {percent(chance)}. With ΔW cut to them, the model solves {percent(kept)} of the examples."
    )


SHOWN = {
    "energy": "share of ‖ΔW‖²",
    "shuffled": "share of ‖ΔW‖², numbers in random places",
    "kept": "accuracy with these alone",
    "removed": "accuracy without these",
}

LEFT = Measure("log10 of the share of the error left + 0.001", lambda run: math.log10(run["error"] + 1e-3), -1, 0.3,
               "decades")  # fmt: skip


@claim(
    "Once LoRA has the rank that a task needs, a higher rank brings nothing more",
    source="Hu et al. 2022, LoRA, §7.2, arXiv:2106.09685",
    lesson=10,
)
def elbow(f):
    """A change of rank 4 is planted in v of the last layer of a copy of the base. LoRA on the same matrix of the base
    learns to imitate the copy's logits. What is left of the error is compared by rank; a thousandth of it counts as
    none."""
    place = "blocks.1.attn.v"
    entries = {
        f"rank {r}": {"method": LoRA(rank=r, alpha=2 * r, targets=(place,)), "planted": ((place, 4, 0.7),)}
        for r in (2, 3, 4, 6, 8)
    }
    runs = f.race(entries, imitate)
    _, below, at, _, beyond = (entry.column("error") for entry in runs.values())
    f.always("With the planted rank, less than 1 % of the error is left", [e < 0.01 for e in at], told(at, 5))
    f.near("Twice the planted rank leaves as much, within a factor of two", runs["rank 8"], runs["rank 4"], LEFT)
    f.ahead("One rank less than the planted one leaves more", runs["rank 4"], runs["rank 3"], LEFT, aside=True)
    alt = "Error left against LoRA's rank, with a line at the planted rank of 4"
    errors = {int(name.split()[1]): entry.column("error") for name, entry in runs.items()}
    f.picture("elbow_by_rank", alt, lambda: plots.error_by_rank(errors, 4))
    f.table("Share of the error left", tuple(runs), [[told(values, 5) for values in errors.values()]])
    f.result = (
        f"Where a change of rank 4 is planted, LoRA of rank 3 leaves {percent(mean(below), 1)} of the error, of rank 4 "
        f"{percent(mean(at), 3)}, and of rank 8 {percent(mean(beyond), 3)}."
    )


# -- learning rates ----------------------------------------------------------------------------------------------------

LADDER = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
RATE = Measure("log10 of the best learning rate", lambda run: run["best"], 1, 0.3, "decades")
AT_BEST = replace(MEASURES["loss"], of=lambda run: run["loss"])
AT_LOW = replace(AT_BEST, of=lambda run: run["low"])


def best_rates(f, methods, recipe=SHORT, seeds=None):
    """{name: [what `bottom` finds, for each seed]}, from one run at each learning rate of LADDER."""
    jobs = [{"method": m, "goal": NEW, "lr": lr, "recipe": recipe} for m in methods.values() for lr in LADDER]
    runs = iter(f.repeat(trial, *jobs, seeds=seeds))
    curves = {name: list(zip(*(depths(next(runs)) for _ in LADDER), strict=True)) for name in methods}
    best = {name: [bottom(curve) for curve in found] for name, found in curves.items()}
    rows = []
    for name, found in curves.items():
        middle = [f"{mean(at_rate):.2f}" for at_rate in zip(*found, strict=True)]
        rows.append((name, f"{typical_rate(best[name]):.2g}", *middle))
    at_edge = sum(run["edge"] for found in best.values() for run in found)
    f.exact(f"After {recipe.steps} steps, no lowest loss is at the lowest or the highest of the learning rates",
            not at_edge, f"{at_edge} runs", aside=True)  # fmt: skip
    title = f"Best learning rate after {recipe.steps} steps, and the mean of log10 of the test loss at each one tried"
    f.table(title, ("", "best", *(f"{lr:g}" for lr in LADDER)), rows)
    return best


def depths(runs):
    return [math.log10(100.0 if run["loss"] is None else min(run["loss"], 100.0)) for run in runs]


def bottom(curve):
    """best: where a parabola through the least of the losses and its two neighbours is least. loss: the least; low:
    that at 0.001. edge: is the least one the first or the last?"""
    least = int(np.argmin(curve))
    i = min(max(least, 1), len(LADDER) - 2)
    x, y = np.log10(LADDER[i - 1 : i + 2]), curve[i - 1 : i + 2]
    square, slope, _ = np.polyfit(x, y, 2)
    best = float(np.clip(-slope / (2 * square), x[0], x[2])) if square > 0 else float(x[np.argmin(y)])
    return {"best": best, "loss": min(curve), "low": curve[LADDER.index(1e-3)], "edge": i != least}


def typical_rate(found):
    return 10 ** mean(run["best"] for run in found)


def times(a, b):
    """How many times b's best learning rate a's is, as text."""
    return f"{typical_rate(a) / typical_rate(b):.1f}"


@claim(
    "LoRA's best learning rate is ten times that of full fine-tuning, whatever the rank",
    source="Schulman and Thinking Machines Lab 2025, LoRA Without Regret, https://thinkingmachines.ai/blog/lora",
    quote="the optimal LR for LoRA is consistently 10x the one used for FullFT in the same application",
    lesson=11,
)
def learning_rate_of_lora(f):
    """Full fine-tuning of all weights, and LoRA on all linear layers with α = 32 as in the article. Six learning rates
    are run with ten seeds for 150 steps on a new table. For each seed, a parabola through the lowest test losses gives
    the best learning rate."""
    ranks, others = (1, 4, 16), (8, 2)
    methods = {"full": Full()} | {f"rank {r}": LoRA(rank=r, alpha=32, targets=MATRICES) for r in ranks}
    methods |= {f"rank 4, α = {a}": LoRA(rank=4, alpha=a, targets=MATRICES) for a in others}
    best = best_rates(f, methods)
    tenfold = raised(best["full"], 10)
    for r in ranks:
        text = f"Rank {r}: LoRA's best learning rate is ten times full fine-tuning's, within a factor of two"
        f.near(text, best[f"rank {r}"], tenfold, RATE)
    for a in others:
        f.near(f"The same for rank 4 with α = {a}", best[f"rank 4, α = {a}"], tenfold, RATE, aside=True)
    f.ahead("Rank 4: LoRA's is higher than full fine-tuning's", best["rank 4"], best["full"], RATE, aside=True)
    f.near("Rank 16 has the best learning rate of rank 1", best["rank 16"], best["rank 1"], RATE, aside=True)
    longer = best_rates(f, {name: methods[name] for name in ("full", "rank 4")}, recipe=Recipe(), seeds=f.seeds[:3])
    text = "Rank 4, 500 steps: ten times full fine-tuning's"
    f.near(text, longer["rank 4"], raised(longer["full"], 10), RATE, aside=True)
    ratios = ", ".join(f"{times(best[f'rank {r}'], best['full'])} with rank {r}" for r in ranks)
    other = " and ".join(f"{times(best[f'rank 4, α = {a}'], best['full'])} with α = {a}" for a in others)
    f.result = (
        f"With α = 32, LoRA's best learning rate is that of full fine-tuning times {ratios}; with rank 4 and a smaller "
        f"α it is that times {other}."
    )


def raised(found, factor):
    return [run | {"best": run["best"] + math.log10(factor)} for run in found]


@claim(
    "Scaled by α/r, LoRA learns more slowly as the rank grows; scaled by α/√r, it does not",
    source="Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732",
    lesson=14,
)
def rank_and_rate(f):
    """LoRA on all linear layers with α = 32, scaled by α/r or by α/√r; for rank 1 both are the same. If learning slows
    down with the rank, a higher rank needs a higher learning rate; if not, one suits all ranks. The best learning rate
    is found as for `learning_rate_of_lora`."""
    plain = {f"α/r, rank {r}": LoRA(rank=r, alpha=32, targets=MATRICES) for r in (1, 4, 16, 32)}
    root = {f"α/√r, rank {r}": LoRA(rank=r, alpha=32, targets=MATRICES, rslora=True) for r in (4, 32)}
    best = best_rates(f, plain | root)
    text = "Scaled by α/r, rank 32 needs a higher learning rate than rank 4"
    f.ahead(text, best["α/r, rank 32"], best["α/r, rank 4"], RATE)
    text = "Scaled by α/√r, ranks 32 and 4 have the same best learning rate, within a factor of two"
    f.near(text, best["α/√r, rank 32"], best["α/√r, rank 4"], RATE)
    slow = "Scaled by α/r, rank 32 reaches a higher test loss than rank 4 at a learning rate of 0.001"
    f.ahead(slow, best["α/r, rank 4"], best["α/r, rank 32"], AT_LOW, aside=True)
    text = "Rank 32, each at its best learning rate: α/√r reaches a lower test loss than α/r"
    f.ahead(text, best["α/√r, rank 32"], best["α/r, rank 32"], AT_BEST, aside=True)
    text = "Scaled by α/√r, rank 32 reaches a lower test loss than rank 4"
    f.ahead(text, best["α/√r, rank 32"], best["α/√r, rank 4"], AT_BEST, aside=True)
    f.result = (
        f"From rank 4 to rank 32, the best learning rate changes by a factor of "
        f"{times(best['α/r, rank 32'], best['α/r, rank 4'])} with α/r and of "
        f"{times(best['α/√r, rank 32'], best['α/√r, rank 4'])} with α/√r."
    )


@claim(
    "A random A with B at zero allows a higher learning rate than a random B with A at zero, and learns better",
    source="Hayou et al. 2024, The Impact of Initialization on LoRA Finetuning Dynamics, arXiv:2406.08447",
    quote="the first scheme (initializing B to zero and A to random) on average yields better performance "
    "compared to the other scheme",
    lesson=10,
)
def random_a_or_b(f):
    """LoRA of rank 4 on all linear layers, started in both ways. The random matrix is drawn with the variance that its
    number of columns asks for. Best learning rates are found as for `learning_rate_of_lora`; the losses are the lowest
    at any of the six learning rates."""
    methods = {"random A": LoRA(rank=4, alpha=8, targets=MATRICES)}
    methods["random B"] = OtherStart(rank=4, alpha=8, targets=MATRICES, random="B")
    a, b = best_rates(f, methods).values()
    f.ahead("With a random A, the best learning rate is higher", a, b, RATE)
    f.ahead("With a random A, the lowest test loss is lower", a, b, AT_BEST)
    losses = [10 ** mean(run["loss"] for run in found) for found in (a, b)]
    f.result = (
        f"The best learning rate is {typical_rate(a):.2g} with a random A and {typical_rate(b):.2g} with a random B; "
        f"the lowest test loss is {losses[0]:.2g} and {losses[1]:.2g}."
    )


# -- A and B -----------------------------------------------------------------------------------------------------------


@claim(
    "B matters more than A: LoRA learns nearly as well if A is random and only B is trained, but not the reverse",
    source="Zhu et al. 2024, Asymmetry in Low-Rank Adapters of Foundation Models, arXiv:2402.16842",
    quote="fine-tuning B is inherently more effective than fine-tuning A, and that a random untrained A should "
    "perform nearly as well as a fine-tuned one",
    lesson=10,
)
def b_matters_more(f):
    """9,216 numbers on all linear layers: LoRA of rank 4, B of rank 8 beside a fixed random A, or A of rank 8 beside a
    fixed random B. The task is a new table; 150 steps, because after 500 all have learned it."""

    def only(random, rank):
        return OtherStart(rank=rank, alpha=2 * rank, targets=MATRICES, random=random, fixed=True)

    runs = f.race(
        {
            "A and B, rank 4": LoRA(rank=4, alpha=8, targets=MATRICES),
            "only B, rank 8": only("A", 8),
            "only A, rank 8": only("B", 8),
            "only B, rank 4": only("A", 4),
            "only A, rank 4": only("B", 4),
        },
        goal=NEW,
        recipe=SHORT,
    )
    both, b, a, small_b, small_a = runs.values()
    f.ahead("Training only B reaches a lower test loss than training only A", b, a, by="loss", margin=0.3)
    f.not_behind("Training only B is as good as training both, within a factor of two", b, both, "loss", margin=0.3)
    f.not_behind("Training only A is as good as training both, within a factor of two", a, both, "loss", margin=0.3,
                 aside=True)  # fmt: skip
    f.ahead("With rank 4, half the numbers, only B is ahead of only A", small_b, small_a, by="loss", aside=True)
    f.result = (
        f"With 9,216 trained numbers, the test loss is {typical(both)} for A and B, {typical(b)} for B beside a fixed "
        f"random A, and {typical(a)} for A beside a fixed random B."
    )


# -- LoRA and full fine-tuning -----------------------------------------------------------------------------------------


def memory(method, batch):
    """Bytes of one step of Adam on so many examples, every tensor weighed; trained: how many numbers."""
    torch.manual_seed(0)
    view = method.attach(shipped())
    found = weigh(view, NEW.batch(batch, torch.Generator().manual_seed(0)))
    trained = sum(p.numel() for p in view.parameters() if p.requires_grad)
    return {kind: getattr(found, kind) for kind in (*KINDS, "total")} | {"trained": trained}


KINDS = ("weights", "gradients", "optimizer", "activations")


@claim(
    "LoRA needs up to two thirds less memory to train, because frozen weights have no gradients and no Adam state",
    source="Hu et al. 2022, LoRA, §4.2, arXiv:2106.09685",
    quote="LoRA can reduce the number of trainable parameters by 10,000 times and the GPU memory requirement by "
    "3 times.",
    lesson=10,
)
def training_memory(f):
    """One step of Adam with every tensor weighed, in 32-bit numbers: LoRA of rank 4 on q and v, and full fine-tuning,
    with 1, 8 and 64 examples at a time."""
    methods, sizes = {"full": Full(), "LoRA": LoRA(rank=4)}, (1, 8, 64)
    jobs = [{"method": method, "batch": size} for size in sizes for method in methods.values()]
    found = dict(zip([(size, name) for size in sizes for name in methods], f.run(memory, jobs), strict=True))
    full, lora = found[1, "full"], found[1, "LoRA"]
    frozen = full["trained"] - lora["trained"]
    state = sum(full[kind] - lora[kind] for kind in ("gradients", "optimizer"))
    f.exact("Each weight that is not trained saves 12 bytes: a gradient and two moments", state == 12 * frozen,
            f"{state:,} bytes for {frozen:,} weights")  # fmt: skip
    saved = {size: 1 - found[size, "LoRA"]["total"] / found[size, "full"]["total"] for size in sizes}
    f.exact(
        "With one example at a time, the whole step needs two thirds less",
        saved[1] >= 2 / 3,
        f"{percent(saved[1])} less",
    )
    f.exact("With 64 examples at a time, too", saved[64] >= 2 / 3, f"{percent(saved[64])} less", aside=True)
    kept = [1 - found[size, "LoRA"]["activations"] / found[size, "full"]["activations"] for size in sizes]
    f.exact("LoRA keeps fewer activations: the inputs of frozen weights are not needed", min(kept) > 0,
            f"{percent(min(kept))} less", aside=True)  # fmt: skip
    rows = [(size, name, *(f"{run[kind] / 1000:,.0f}" for kind in KINDS)) for (size, name), run in found.items()]
    f.table("Kilobytes of one step", ("examples", "", *KINDS), rows)
    f.note("The more examples at a time, the more of the memory is activations. In a large model the weights count for "
           "more.")  # fmt: skip
    shares = [percent(saved[size]) for size in sizes]
    f.result = "With {}, {} and {} examples at a time, LoRA needs {}, {} and {} less memory.".format(*sizes, *shares)


@claim(
    "LoRA performs on par with full fine-tuning or better",
    source="Hu et al. 2022, LoRA, abstract and §5, arXiv:2106.09685",
    quote="LoRA performs on-par or better than fine-tuning in model quality on RoBERTa, DeBERTa, GPT-2, and GPT-3",
    lesson=10,
)
def lora_and_full(f):
    """A new table, learned from 60 or 120 examples in 250 steps, so that accuracy on unseen examples can tell. LoRA has
    rank 4 and is on q and v, as in the paper; beside it stands LoRA of rank 4 on all linear layers. With new examples
    at every step and 150 steps, test loss and speed are compared."""
    methods = {"full": Full(), "q and v": LoRA(rank=4), "all six": LoRA(rank=4, targets=MATRICES)}
    few = {f"{name}, {n} examples": {"method": m, "examples": n} for n in (60, 120) for name, m in methods.items()}
    runs = f.race(few, goal=NEW, recipe=HALF)
    runs |= f.race({f"{name}, new examples": method for name, method in methods.items()}, goal=NEW, recipe=SHORT)
    for n in (60, 120):
        full, lora, wide = (runs[f"{name}, {n} examples"] for name in methods)
        f.not_behind(
            f"{n} examples: LoRA on q and v is no less accurate than full fine-tuning", lora, full, vary=n == 120
        )
        f.not_behind(f"{n} examples: LoRA on all six is no less accurate", wide, full, aside=True)
    full, lora, wide = (runs[f"{name}, new examples"] for name in methods)
    for by in ("loss", "steps"):
        f.ahead(f"New examples: full fine-tuning is ahead of LoRA on q and v, by {by}", full, lora, by, aside=True)
        f.ahead(f"New examples: full fine-tuning is ahead of LoRA on all six, by {by}", full, wide, by, aside=True)
    shares = [percent(mean(entry.column("accuracy"))) for name, entry in runs.items() if name in few]
    f.result = (
        "On unseen examples, full fine-tuning, LoRA on q and v, and LoRA on all six solve {}, {} and {} after 60 "
        "examples, and {}, {} and {} after 120."
    ).format(*shares)
