"""How much an adapter can hold, and how few numbers a task takes."""

import math
from dataclasses import dataclass, replace
from itertools import cycle
from statistics import mean

import torch
from torch import nn
from torch.nn.utils import parametrize

from claims.ledger import HELD_OUT, Measure, claim, told
from minipeft import plots
from minipeft.attach import Method, trainable
from minipeft.bases import base
from minipeft.lab import adapt, learning_rate_of, trial
from minipeft.methods import Full, LoRA
from minipeft.targets import sites
from minipeft.tasks import LENGTH, LETTERS, rows
from minipeft.training import RECIPE, loss_of

MATRICES = ("q", "k", "v", "o", "up", "down")
BITS = LENGTH * math.log2(len(LETTERS))  # in the answer to one word
DIMENSIONS = (64, 128, 256, 512)  # of a random subspace
SHARE = Measure("share of the bits stored", lambda run: run["stored"], 1, 0.05, "")
BITS_STORED = Measure("log2 of the bits stored", lambda run: math.log2(max(1.0, run["bits"])), 1, 0.3, "doublings")


@dataclass(frozen=True)
class Table:
    """So many random words, each with a random answer: nothing to understand, only to memorise."""

    size: int
    seed: int = 0

    def batch(self, size, generator):
        """`size` of the examples, each as often as another (give or take one), in an order drawn with `generator`."""
        dice = torch.Generator().manual_seed(self.seed)
        x, y = torch.randint(len(LETTERS), (2, self.size, LENGTH), generator=dice)
        order = [torch.randperm(self.size, generator=generator) for _ in range(-(-size // self.size))]
        chosen = torch.cat(order)[:size]
        return rows(torch.empty(size, 0, dtype=torch.long), x[chosen], y[chosen])


def memorise(method, size, lr, seed, recipe=RECIPE):
    """stored: which share of the bits in a table's answers training has stored; bits: how many that are."""
    table = Table(size, seed)
    try:
        view, _ = adapt(method, table, lr, seed, recipe)
    except FloatingPointError:
        view = method.attach(base())
        return {"stored": 0.0, "bits": 0.0, "validation": None, "parameters": count(view)}
    with torch.no_grad():
        whole = table.batch(size, torch.Generator())
        loss = (LENGTH + 1) * loss_of(view(whole.tokens), whole.targets).item() / math.log(2)  # bits, of one answer
    stored = max(0.0, 1 - loss / BITS)
    return {"stored": stored, "bits": size * BITS * stored, "validation": loss, "parameters": count(view)}


def count(view):
    return sum(p.numel() for p in trainable(view).values())


class Shifted(nn.Module):
    """W + P z for one weight W: each of its numbers moves with one number of z, forwards or backwards."""

    def __init__(self, z, W):
        super().__init__()
        self.z, self.shape = z, W.shape
        self.register_buffer("which", torch.randint(len(z), (W.numel(),)), persistent=False)
        self.register_buffer("sign", 2.0 * torch.randint(2, (W.numel(),)) - 1, persistent=False)

    def forward(self, W):
        return W + (self.sign * self.z.index_select(0, self.which)).view(self.shape)


@dataclass(frozen=True)
class Subspace(Method):
    """All weights move within one random subspace of `size` dimensions: θ = θ₀ + P z, and only z is trained."""

    size: int = 64

    def insert(self, model):
        z = nn.Parameter(torch.zeros(self.size))
        for _, parent, name in list(sites(model)):
            if isinstance(weight := getattr(parent, name), nn.Parameter):
                parametrize.register_parametrization(parent, name, Shifted(z, weight), unsafe=True)


@claim(
    "LoRA learns as much as full fine-tuning until the data exceed its capacity, and less beyond it",
    source="Schulman and Thinking Machines Lab 2025, LoRA Without Regret, thinkingmachines.ai/blog/lora",
    quote="For datasets that exceed LoRA capacity, LoRA underperforms FullFT.",
    lesson=11,
)
def capacity(f):
    """Random words with random answers have no rule; they can only be memorised, and each answer has 24 bits. What is
    measured is how many of the bits training has stored. LoRA adapts all matrices; there are 500 steps of 64 examples.
    Learning rates are tuned at 512 words and used for the smaller tables too."""
    methods = {f"LoRA of rank {r}": LoRA(rank=r, alpha=2 * r, targets=MATRICES) for r in (1, 4, 16)} | {
        "full fine-tuning": Full()
    }
    long, runs = {"recipe": replace(RECIPE, batch_size=64)}, {}
    for size in (512, 128, 32):
        lr = {name: {"lr": runs[name, 512].lr} if runs else {} for name in methods}
        entries = {f"{n}, {size} words": {"method": m, "size": size} | lr[n] for n, m in methods.items()}
        found = f.race(entries, experiment=memorise, seeds=5 if size == 32 else None, **long).values()
        runs |= {(name, size): entry for name, entry in zip(methods, found, strict=True)}
    one, four, most, stored = *list(methods)[:3], "stored"
    text = "LoRA of rank 4 is at most five points behind full fine-tuning in its share of 128 words"
    f.not_behind(text, runs[four, 128], runs["full fine-tuning", 128], by=SHARE, vary=False)
    text = "full fine-tuning stores a larger share of 512 words than LoRA of rank 4"
    f.ahead(text, runs["full fine-tuning", 512], runs[four, 512], by=SHARE, vary=True)
    text = "LoRA of rank 16 is at most five points behind full fine-tuning in its share of 512 words"
    f.not_behind(text, runs[most, 512], runs["full fine-tuning", 512], by=SHARE, aside=True)
    text = "LoRA of rank 1 is at most five points behind full fine-tuning in its share of 32 words"
    f.not_behind(text, runs[one, 32], runs["full fine-tuning", 32], by=SHARE, aside=True)
    text = "LoRA of rank 1 stores more bits of 128 words than of 512"
    f.ahead(text, runs[one, 128], runs[one, 512], by=BITS_STORED, aside=True, vary=False)
    found = {
        size * BITS: {runs[n, size].runs[0]["parameters"]: runs[n, size].column("bits") for n in methods}
        for size in (32, 128, 512)
    }
    f.picture(
        "bits_stored",
        "Bits stored of tables of 32, 128 and 512 words against trained parameters: LoRA of rank 1, 4 and 16, and full",
        lambda: plots.bits_stored(found),
    )
    rows = [(name, *(told(runs[name, size].column("bits"), 0) for size in (32, 128, 512))) for name in methods]
    f.table("Bits stored", ("", *(f"{size} words: {size * BITS:,.0f} bits" for size in (32, 128, 512))), rows)
    shares = {s: ", ".join(f"{mean(runs[n, s].column(stored)):.0%} by {n}" for n in methods) for s in (128, 512)}
    f.result = f"Of the bits in 128 words, training stores {shares[128]}; of those in 512 words, {shares[512]}."


def least_dimension(accuracies, whole):
    """log2 of the dimension at which a random subspace reaches 90 % of the accuracy `whole`.

    accuracies: for each of DIMENSIONS; between two of them a straight line is drawn. What none reaches counts as double
    the last.
    """
    wanted = 0.9 * whole
    below = (math.log2(DIMENSIONS[0]) - 1, 0.0)
    for size, accuracy in zip(DIMENSIONS, accuracies, strict=True):
        at = (math.log2(size), accuracy)
        if accuracy >= wanted and accuracy > below[1]:
            return below[0] + (at[0] - below[0]) * (wanted - below[1]) / (at[1] - below[1])
        below = at
    return at[0] + 1


@claim(
    "Larger pretrained models have a lower intrinsic dimension",
    source="Aghajanyan et al. 2021, Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning, "
    "arXiv:2012.13255",
    quote="larger models tend to have lower intrinsic dimension after a fixed number of pre-training updates",
    lesson=11,
)
def intrinsic_dimension(f):
    """All weights move within a random subspace, θ = θ₀ + P z, and only z is trained, as in Li et al. 2018,
    arXiv:1804.08838. Each row of P has one entry, 1 or -1, in a random place. The intrinsic dimension is the length of
    z with which a held-out pair is solved with 90 % of the accuracy of full fine-tuning. There are three bases of each
    of four widths, each with two seeds. Smaller bases were pretrained for more steps, so that all solve the
    mixture."""
    bases = {width: [f"letters-{width}{again}" for again in ("", "-1", "-2")] for width in ("d32", "d48", "d64", "d96")}
    middle = {f"{w}, 256 dimensions": {"method": Subspace(size=256), "base": names[0]} for w, names in bases.items()}
    lr = dict(zip(bases, [e.lr for e in f.race(middle, goal=HELD_OUT, seeds=1).values()], strict=True))
    found, sizes, seeds = {}, {}, cycle(f.seeds)
    for width, name in ((width, name) for width, names in bases.items() for name in names):
        job = {"goal": HELD_OUT, "base": name}
        whole = job | {"method": Full(), "lr": learning_rate_of(Full())}
        moved = [job | {"method": Subspace(size=size), "lr": lr[width]} for size in DIMENSIONS]
        full, *runs = f.repeat(trial, whole, *moved, seeds=[next(seeds), next(seeds)])
        sizes[name] = full[0]["parameters"]
        found[name] = [
            least_dimension([run["accuracy"] for run in by_size], of_full["accuracy"])
            for of_full, *by_size in zip(full, *runs, strict=True)
        ]
    mean_of = {name: mean(values) for name, values in found.items()}
    text = "the more parameters a base has, the lower its intrinsic dimension"
    f.follows(text, [math.log2(sizes[name]) for name in mean_of], list(mean_of.values()), sign=-1)
    rows = [
        (w[1:], f"{sizes[names[0]]:,}", *(f"{2 ** mean_of[name]:.0f}" for name in names)) for w, names in bases.items()
    ]
    f.table("Intrinsic dimension", ("width", "parameters", "first base", "second", "third"), rows)
    typical = {w: 2 ** mean(mean_of[name] for name in names) for w, names in bases.items()}
    each = ", ".join(f"{d:.0f} at width {w[1:]}" for w, d in typical.items())
    f.result = f"The intrinsic dimension is {each}."
