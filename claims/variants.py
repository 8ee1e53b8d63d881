"""Variants of LoRA: AdaLoRA, QLoRA, LoRA+, rsLoRA, DoRA, VeRA, PiSSA and IA³."""

import math
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from claims.ledger import HELD_OUT, NEW, Measure, claim, log_steps
from claims.planted import imitate
from minipeft import deltas
from minipeft.bases import base as shipped
from minipeft.costs import measure as memory_of
from minipeft.lab import adapt, trial
from minipeft.methods import (
    IA3,
    AdaLoRA,
    BitFit,
    DoRA,
    Full,
    LoRA,
    PiSSA,
    PromptTuning,
    QLoRA,
    VeRA,
    adalora,
    dora,
    pissa,
    qlora,
)
from minipeft.targets import wrap
from minipeft.tasks import Mixture
from minipeft.training import RECIPE, Recipe, evaluate
from minipeft.views import merge

MATRICES = ("q", "k", "v", "o", "up", "down")
BASES = tuple(f"letters-d{width}{which}" for width in (32, 48, 64, 96) for which in ("", "-1", "-2"))
HUNDRED, TWO_HUNDRED = Recipe(steps=100), Recipe(steps=200)  # so few that on NEW not every method gets there
SPREAD = LoRA(rank=1, alpha=2, targets=MATRICES)  # AdaLoRA's rival: the same rank everywhere
PLANTED = (("blocks.1.attn.v", 6, 0.7), ("blocks.1.attn.q", 3, 1.5), ("blocks.0.mlp.down", 3, 0.3))
PERCENT = Measure("relative error in %", lambda run: 100 * run["error"], -1, 0.2, "points")
ERROR = Measure("log10 of the error left", lambda run: math.log10(max(run["error"], 1e-6)), -1, 0.1, "decades")


def average(entry, name="accuracy"):
    return mean(entry.column(name))


def steps_of(entry):
    """The geometric mean of the steps to 90 %. A run that does not arrive counts as one step more than it lasted."""
    return f"{2 ** mean(log_steps(run) for run in entry.runs):.0f}"


def solved(entry):
    return f"{100 * average(entry):.0f} %"


def listed(entries, tell, word="for"):
    """ "3 for this, 4 for that and 5 for those"."""
    *most, last = [f"{tell(entry)} {word} {name}" for name, entry in entries.items()]
    return f"{', '.join(most)} and {last}"


# -- AdaLoRA -----------------------------------------------------------------------------------------------------------


def handed(finder, finder_lr, lr, seed, recipe=RECIPE, planted=None):
    """A fresh LoRA gets the ranks that an AdaLoRA found with the same seed.

    Both imitate what is `planted`; without it, they learn NEW."""
    if planted:
        places = imitate(finder, planted, finder_lr, seed, recipe)["ranks"]
    else:
        places = adalora.ranks(adapt(finder, NEW, finder_lr, seed, recipe)[0])
    places = {path: rank for path, rank in places.items() if rank}
    method = LoRA(rank=1, alpha=2, targets=tuple(places), rank_pattern=places)
    return imitate(method, planted, lr, seed, recipe) if planted else trial(method, NEW, lr, seed, recipe)


def hits(run):
    """How many triplets lie where a rank was planted."""
    return sum(min(run["ranks"].get(path, 0), rank) for path, rank, _ in PLANTED)


@claim(
    "AdaLoRA gives more rank to the matrices that need it, and so beats a LoRA with the same budget spread evenly",
    source="Zhang et al. 2023, AdaLoRA, arXiv:2303.10512",
    quote="adaptively allocates the parameter budget among weight matrices according to their importance score",
    lesson=12,
)
def adalora_planted(f):
    """A change of rank 6, 3 and 3 is planted in three of twelve matrices. The student imitates the logits for 200 steps
    with a budget of 12 ranks. AdaLoRA begins with 8 triplets in each matrix. Another one begins with 2, near the
    paper's 1.5 times the budget. The last student is a fresh LoRA with the ranks that the first AdaLoRA found."""
    settings = {"planted": PLANTED, "recipe": TWO_HUNDRED}
    methods = {"LoRA, spread evenly": SPREAD, "AdaLoRA": AdaLoRA(rank=1, initial_rank=8)}
    methods["AdaLoRA, from 2"] = AdaLoRA(rank=1, initial_rank=2)
    runs = f.race(methods, imitate, **settings)
    spread, found = runs["LoRA, spread evenly"], runs["AdaLoRA"]
    entry = {"finder": methods["AdaLoRA"], "finder_lr": found.lr}
    fresh = f.race({"LoRA with the ranks found": entry}, handed, **settings)["LoRA with the ranks found"]
    f.ahead("AdaLoRA leaves less error than a LoRA spread evenly", found, spread, ERROR)
    f.always("at least 9 of AdaLoRA's 12 triplets lie where they were planted", [hits(run) >= 9 for run in found.runs])
    f.ahead("AdaLoRA that begins with 2 triplets leaves less, too", runs["AdaLoRA, from 2"], spread, ERROR, aside=True)
    f.ahead("a fresh LoRA with the ranks found leaves less than one spread evenly", fresh, spread, ERROR, aside=True)
    f.ahead("a fresh LoRA with the ranks found leaves less than AdaLoRA", fresh, found, ERROR, aside=True)
    f.result = (
        f"AdaLoRA leaves {100 * average(found, 'error'):.1f} % of the error, a LoRA spread evenly "
        f"{100 * average(spread, 'error'):.1f} %; {mean(map(hits, found.runs)):.1f} of AdaLoRA's 12 triplets lie where "
        f"they were planted. A fresh LoRA with the ranks found leaves {100 * average(fresh, 'error'):.1f} %."
    )
    paths = [path for path, *_ in PLANTED]
    rows = []
    for seed, run in zip(f.seeds, found.runs, strict=True):
        there = [run["ranks"].get(path, 0) for path in paths]
        rows.append((seed, *there, sum(run["ranks"].values()) - sum(there)))
    f.table("Triplets that AdaLoRA kept; planted are 6, 3 and 3", ("seed", *paths, "elsewhere"), rows)


@claim(
    "AdaLoRA beats a LoRA of the same rank everywhere on an ordinary task",
    source="Zhang et al. 2023, AdaLoRA, arXiv:2303.10512",
    lesson=12,
)
def adalora_natural(f):
    """A new table, 200 steps, 12 ranks in the end; learning rates are tuned for speed, by the mean loss while training.
    AdaLoRA begins with 2 triplets in each matrix. Three controls tell places from numbers: AdaLoRA that begins with 1
    has nothing to choose; a fresh LoRA gets the ranks that AdaLoRA found; a LoRA of rank 2 trains as many numbers as
    AdaLoRA at its start."""
    methods = {"LoRA of rank 1": SPREAD, "AdaLoRA": AdaLoRA(rank=1, initial_rank=2)}
    methods["AdaLoRA without a choice"] = AdaLoRA(rank=1, initial_rank=1)
    methods["LoRA of rank 2"] = LoRA(rank=2, alpha=4, targets=MATRICES)
    runs = f.race(methods, goal=NEW, recipe=TWO_HUNDRED, tuned_by="area")
    entry = {"finder": methods["AdaLoRA"], "finder_lr": runs["AdaLoRA"].lr}
    runs |= f.race({"LoRA with the ranks found": entry}, handed, recipe=TWO_HUNDRED, tuned_by="area")
    lora, ada, idle, double, fresh = runs.values()
    f.ahead("AdaLoRA has a lower loss than a LoRA of rank 1 everywhere", ada, lora, "loss")
    f.ahead("AdaLoRA reaches 90 % in fewer steps", ada, lora, "steps", aside=True)
    f.ahead("AdaLoRA is faster than AdaLoRA without a choice", ada, idle, "steps", aside=True)
    f.ahead(
        "a fresh LoRA with the ranks found is faster than one of rank 1 everywhere", fresh, lora, "steps", aside=True
    )
    f.ahead("a fresh LoRA with the ranks found is faster than AdaLoRA", fresh, ada, "steps", aside=True)
    f.ahead("a LoRA of rank 2 everywhere is faster than AdaLoRA", double, ada, "steps", aside=True)
    f.result = f"The mean number of steps to 90 % is {listed(runs, steps_of)}."


# -- QLoRA -------------------------------------------------------------------------------------------------------------

LEVELS = {name: qlora.levels_of(name.lower()) for name in ("NF4", "FP4", "int4", "NF3", "int3", "NF2", "int2")}
LEVELS |= {f"{2**bits} even levels": torch.linspace(-1, 1, 2**bits) for bits in (4, 3, 2)}


def rounding(base):
    """Every matrix of a base is rounded in blocks of 64. For each set of levels: the relative error of the weights, and
    loss and accuracy of the rounded base on the mixture; "none" is the base itself."""
    weights = {
        name: p for name, p in shipped(base).named_parameters() if name.split(".")[-2] in MATRICES and p.ndim == 2
    }
    score = evaluate(shipped(base), Mixture())
    found = {"none": {"error": 0.0, "loss": score.loss, "accuracy": score.accuracy}}
    for name, levels in LEVELS.items():
        model, lost = shipped(base), 0.0
        for path, W in weights.items():
            codes, absmax = qlora.encode(W, levels, 64)
            rounded = qlora.decode(codes[: W.numel()], absmax, levels, 64).view(W.shape)
            model.get_parameter(path).data = rounded
            lost += float((rounded - W).square().sum())
        score = evaluate(model, Mixture())
        whole = sum(float(W.square().sum()) for W in weights.values())
        found[name] = {"error": math.sqrt(lost / whole), "loss": score.loss, "accuracy": score.accuracy}
    return found


def roundings(f):
    return f.run(rounding, [{"base": name} for name in BASES])


def lower(found, a, b, what="error"):
    """For each base: do the levels a lose less than the levels b?"""
    return [run[a][what] < run[b][what] for run in found]


@claim(
    "NF4 rounds trained weights with less error than FP4 and int4",
    source="Dettmers et al. 2023, QLoRA, §3, arXiv:2305.14314",
    lesson=13,
)
def four_bits(f):
    """The twelve matrices of each of twelve bases of four widths, in blocks of 64. FP4 (E2M1) and int4 have 15 levels
    and NF4 has 16, so it is also compared with 16 even levels. With 2 bits, int2 has 3 levels and NF2 has 4."""
    found = roundings(f)
    for other in ("FP4", "int4"):
        f.always(f"NF4's error is smaller than that of {other}", lower(found, "NF4", other), of="bases")
    for normal, even in (("NF4", "16 even levels"), ("NF3", "8 even levels"), ("NF2", "4 even levels")):
        text = f"the error of {normal} is smaller than that of {even}"
        f.always(text, lower(found, normal, even), aside=True, of="bases")
    error = {name: [run[name]["error"] for run in found] for name in LEVELS}
    four = {name: error[name] for name in ("NF4", "FP4", "int4", "16 even levels")}
    f.result = (
        f"The relative error, a mean over twelve bases, is {listed(four, lambda values: f'{mean(values):.3f}')}. "
        f"With 2 bits, NF2 has {mean(error['NF2']):.2f} and four even levels have {mean(error['4 even levels']):.2f}."
    )
    rows = [
        (name, f"{mean(error[name]):.4f}", f"{mean(run[name]['loss'] for run in found):.4f}",
         f"{mean(run[name]['accuracy'] for run in found):.3f}")
        for name in LEVELS
    ]  # fmt: skip
    f.table(
        "Rounding alone, means of twelve bases", ("levels", "relative error", "loss on the mixture", "accuracy"), rows
    )


@claim(
    "A model rounded to NF4 works better than one rounded to FP4 or int4",
    source="Dettmers et al. 2023, QLoRA, §4, arXiv:2305.14314",
    quote="NF4 improves performance significantly over FP4 and Int4",
    lesson=13,
)
def four_bits_used(f):
    """The same twelve bases, rounded; the loss on 1,000 unseen examples of the pretraining mixture, compared base by
    base."""
    found = roundings(f)
    for other in ("FP4", "int4"):
        f.always(f"the loss with NF4 is lower than with {other}", lower(found, "NF4", other, "loss"), of="bases")
    even = lower(found, "NF4", "16 even levels", "loss")
    f.always("it is lower than with 16 even levels", even, aside=True, of="bases")
    loss = {name: mean(run[name]["loss"] for run in found) for name in ("NF4", "FP4", "int4", "16 even levels")}
    f.result = (
        f"The loss on the mixture, a mean over twelve bases, is {mean(run['none']['loss'] for run in found):.4f} "
        f"before rounding and {listed(loss, '{:.4f}'.format)}."
    )


def stored(base, double_quant):
    """A base in NF4: bits for each weight, relative error of the weights, loss on the mixture."""
    view, plain = QLoRA(rank=1, double_quant=double_quant).attach(shipped(base)), shipped(base)
    pairs = [(rounded, plain.get_parameter(path)) for path, (rounded, _) in deltas.updates(view).items()]
    lost, whole = (
        sum(float(t.square().sum()) for t in ts) for ts in ([a - b for a, b in pairs], [b for _, b in pairs])
    )
    loss = evaluate(view, Mixture()).loss
    return {"bits": qlora.measured_bits(view), "error": math.sqrt(lost / whole), "loss": loss}


@claim(
    "Double quantization saves about 0.37 bits for each weight and costs no quality",
    source="Dettmers et al. 2023, QLoRA, §3, arXiv:2305.14314",
    lesson=13,
)
def double_quantization(f):
    """Twelve bases in NF4, with the scale of each block in 32 bits and in 8 bits. In the narrow bases a matrix has
    too few blocks to fill a group that shares a scale, so less is saved. An error that differs by less than
    0.2 points counts as the same."""
    jobs = [{"base": name, "double_quant": double} for double in (True, False) for name in BASES]
    found = f.run(stored, jobs)
    twice, once = found[: len(BASES)], found[len(BASES) :]
    saved = [b["bits"] - a["bits"] for a, b in zip(twice, once, strict=True)]
    f.near("the error of the weights is the same", twice, once, PERCENT)
    same = [a["loss"] < b["loss"] + 0.001 for a, b in zip(twice, once, strict=True)]
    f.always("the loss on the mixture rises by less than 0.001", same, of="bases")
    numbers = f"{min(saved):.2f} to {max(saved):.2f}"
    f.exact("it saves 0.34 to 0.38 bits for each weight", 0.34 < min(saved) <= max(saved) < 0.38, numbers)
    error, loss = ([mean(run[what] for run in runs) for runs in (twice, once)] for what in ("error", "loss"))
    f.result = (
        f"It saves {numbers} bits for each weight. The relative error is {100 * error[0]:.2f} % with it and "
        f"{100 * error[1]:.2f} % without; the loss on the mixture is {loss[0]:.4f} with it and {loss[1]:.4f} without."
    )


@claim(
    "LoRA on a base in NF4 learns as well as LoRA on the base itself",
    source="Dettmers et al. 2023, QLoRA, §4, arXiv:2305.14314",
    quote="NF4 with double quantization fully recovers the 16-bit LoRA MMLU performance",
    lesson=13,
)
def qlora_matches(f):
    """LoRA of rank 2 on all twelve matrices, 200 steps of a new table, learning rates tuned for speed. Learning is as
    fast if it takes at most 0.15 doublings more steps to 90 %, which is 11 %. As asides, 200 steps on 32 examples of a
    pair that the base has not seen together; and LoRA on NF2, which destroys what the base knew: can the test see a
    damaged base?"""
    plain = {"the base itself": LoRA(rank=2, alpha=4, targets=MATRICES)}
    quantized = {name: QLoRA(rank=2, alpha=4, quant_type=name.lower()) for name in ("NF4", "FP4", "NF2")}
    runs = f.race(plain | quantized, goal=NEW, recipe=TWO_HUNDRED, tuned_by="area")
    whole, nf4, fp4, nf2 = runs.values()
    few = {f"{name}, 32 examples": method for name, method in (plain | quantized).items() if name != "FP4"}
    few_whole, few_nf4, few_nf2 = f.race(few, goal=HELD_OUT, examples=32, recipe=TWO_HUNDRED).values()
    f.not_behind("on NF4, LoRA reaches 90 % in as few steps as on the base itself", nf4, whole, "steps")
    f.ahead("LoRA on NF4 reaches 90 % in fewer steps than on FP4", nf4, fp4, "steps", aside=True)
    f.ahead("from 32 examples, LoRA on the base itself is more accurate than on NF4", few_whole, few_nf4, aside=True)
    f.ahead("from 32 examples, LoRA on the base itself is more accurate than on NF2", few_whole, few_nf2, aside=True)
    f.ahead("LoRA on the base itself reaches 90 % in fewer steps than on NF2", whole, nf2, "steps", aside=True)
    if f.statements[-1].decision is not True:
        f.note("LoRA on NF2 is not seen to be slower, so the speed on a new table does not tell what four bits keep.")
    f.result = f"The mean number of steps to 90 % is {listed(runs, steps_of)}."


@claim(
    "Training a LoRA recovers all that quantization lost, at 3 and at 2 bits too",
    source="Dettmers et al. 2023, QLoRA, §4, arXiv:2305.14314",
    lesson=13,
)
def mended(f):
    """Four bits lose nearly nothing here, so the base is rounded to 3 and to 2 bits. A LoRA of rank 4 on all twelve
    matrices is trained on the pretraining mixture. All is recovered if the accuracy is at most 0.01 below
    that of the base."""
    methods = {name: QLoRA(rank=4, quant_type=name.lower()) for name in ("NF3", "NF2", "int2")}
    runs = f.race(methods, goal=Mixture())
    (before,) = f.run(rounding, [{"base": "letters-d64"}])
    least = before["none"]["accuracy"] - 0.01
    for name, bits in (("NF3", 3), ("NF2", 2)):
        f.always(f"all that {bits} bits lost is recovered", [run["accuracy"] >= least for run in runs[name].runs])
    f.ahead("more comes back with NF2 than with int2, which has one level less", runs["NF2"], runs["int2"], aside=True)
    rounded = {name: before[name]["accuracy"] for name in methods}
    f.result = (
        f"The base's accuracy on the mixture is {before['none']['accuracy']:.3f}. Rounding lowers it to "
        f"{listed(rounded, '{:.3f}'.format, 'with')}; after training it is "
        f"{listed(runs, lambda entry: f'{average(entry):.3f}', 'with')}."
    )


# -- LoRA+ and rsLoRA --------------------------------------------------------------------------------------------------


@claim(
    "LoRA+ learns faster than LoRA, up to twice as fast, and better",
    source="Hayou, Ghosh and Yu 2024, LoRA+, arXiv:2402.12354",
    quote="using the same learning rate for A and B does not allow efficient feature learning",
    lesson=14,
)
def lora_plus(f):
    """LoRA of rank 4 with one learning rate, and with one for B that is 16 times A's. They have 100 steps for a new
    table, which is not quite enough for LoRA. A LoRA with 200 steps shows whether LoRA+ needs half as many. With Adam,
    a ratio of 16 should do what an α of 16 times the size does, but for the clipping of gradients; that is tried."""
    methods = {"LoRA": LoRA(rank=4), "LoRA+": LoRA(rank=4, lr_ratio=16.0), "LoRA, α = 128": LoRA(rank=4, alpha=128)}
    lora, plus, strong = f.race(methods, goal=NEW, recipe=HUNDRED).values()
    longer = f.race({"LoRA, 200 steps": LoRA(rank=4)}, goal=NEW, recipe=TWO_HUNDRED)["LoRA, 200 steps"]
    f.ahead("LoRA+ has a lower loss after 100 steps", plus, lora, "loss")
    f.ahead("LoRA+ has a lower mean loss while training", plus, lora, "area")
    f.ahead("LoRA+ has a lower loss after 100 steps than LoRA after 200", plus, longer, "loss", aside=True)
    f.ahead("LoRA with α = 128 has a lower loss than with α = 8", strong, lora, "loss", aside=True)
    f.near("LoRA with α = 128 ends with the loss of LoRA+", strong, plus, "loss", margin=0.2, aside=True)
    f.result = (
        f"After 100 steps LoRA+ solves {solved(plus)} of the unseen examples and LoRA "
        f"{solved(lora)}; LoRA with α = 128 solves {solved(strong)}. After 200 steps LoRA "
        f"solves {solved(longer)}."
    )


@claim(
    "A higher rank pays more if LoRA is scaled by α/√r than if it is scaled by α/r",
    source="Kalajdzievski 2023, rsLoRA, arXiv:2312.03732",
    quote="LoRA adapters should be divided by a factor of the square root of the rank",
    lesson=14,
)
def rslora_high_rank(f):
    """Ranks 4 and 32, 100 steps of a new table, all at the learning rate that was tuned for rank 4. α is 8 with α/r and
    4 with α/√r, so that both have the same scale, 2, at rank 4. Learning nothing more from a higher rank means: less
    than 0.3 decades of the loss, a factor of two. Then each scale has its own learning rate at rank 32."""
    low = f.race({"rank 4": LoRA(rank=4)}, goal=NEW, recipe=HUNDRED)["rank 4"]
    high = {"rank 32, α/r": LoRA(rank=32), "rank 32, α/√r": LoRA(rank=32, alpha=4, rslora=True)}
    damped, stable = f.race(high, goal=NEW, recipe=HUNDRED, lr=low.lr).values()
    tuned = {f"{name}, tuned": method for name, method in high.items()}
    own_damped, own_stable = f.race(tuned, goal=NEW, recipe=HUNDRED).values()
    f.ahead("with α/√r, rank 32 has a lower loss than rank 4", stable, low, "loss")
    f.ahead("at rank 32, α/√r has a lower loss than α/r", stable, damped, "loss")
    f.near("with α/r, rank 32 has the loss of rank 4", damped, low, "loss", margin=0.3, aside=True)
    f.ahead(
        "at rank 32, α/√r is ahead of α/r with tuned learning rates, too", own_stable, own_damped, "loss", aside=True
    )
    f.result = (
        f"At one learning rate, rank 4 solves {solved(low)} of the unseen examples, rank 32 "
        f"{solved(damped)} with α/r and {solved(stable)} with α/√r. With learning rates of "
        f"their own the two solve {solved(own_damped)} and {solved(own_stable)}."
    )


# -- DoRA --------------------------------------------------------------------------------------------------------------


def moved(view, base, goal):
    """How far the rows of q and v have moved, a number for each matrix: change of length, 1 − cosine of the change of
    direction (both are means over rows), and the correlation of the two over rows."""
    found = {"length": [], "direction": [], "rows": []}
    for name, (W, change) in deltas.updates(view).items():
        if name.endswith(("q.weight", "v.weight")):
            (before, was), (after, now) = dora.decompose(W), dora.decompose(W + change)
            length, direction = (after - before).abs(), 1 - (was * now).sum(1)
            found["length"].append(length.mean().item())
            found["direction"].append(direction.mean().item())
            found["rows"].append(float(np.corrcoef(length, direction)[0, 1]))
    return found


def coupled(run):
    """The paper's correlation, over matrices and points in time; and that over the rows of a matrix, at the end."""
    length, direction = ([x for point in run["path"] for x in point[what]] for what in ("length", "direction"))
    return {"time": float(np.corrcoef(length, direction)[0, 1]), "rows": mean(run["path"][-1]["rows"])}


class WholeGradientLinear(dora.DoRALinear):
    """DoRA whose gradient passes through the norm, too."""

    def g(self):
        return self.m / dora.lengths(self.V())


@dataclass(frozen=True)
class WholeGradientDoRA(DoRA):
    """DoRA of layers whose gradient passes through the norm, too."""

    def insert(self, model):
        make = WholeGradientLinear
        wrap(
            model,
            self.targets,
            lambda module, path: make(module, self.rank, self.alpha / self.rank),
            layers=self.layers,
        )


def activations(method):
    """Bytes of activations in one step of Adam on 32 examples."""
    return {"bytes": memory_of(method.attach(shipped()), NEW.batch(32, torch.Generator().manual_seed(0))).activations}


@claim(
    "DoRA learns better than LoRA of the same rank",
    source="Liu et al. 2024, DoRA, arXiv:2402.09353",
    quote="we enhance both the learning capacity and training stability of LoRA while avoiding any additional "
    "inference overhead",
    lesson=14,
)
def dora_beats_lora(f):
    """A new table on q and v. LoRA of rank 2 trains 1,024 numbers, which is just enough for it; DoRA trains 1,280. The
    paper also finds DoRA better with half the rank; that is an aside, for rank 1 is not enough for this task."""
    methods = {"LoRA of rank 2": LoRA(rank=2, alpha=4), "DoRA of rank 2": DoRA(rank=2, alpha=4)}
    methods |= {"DoRA of rank 1": DoRA(rank=1, alpha=2), "LoRA of rank 1": LoRA(rank=1, alpha=2)}
    runs = f.race(methods, goal=NEW)
    lora, same, half, single = runs.values()
    f.ahead("with the same rank, DoRA has a lower loss than LoRA", same, lora, "loss", vary=False)
    f.ahead("with half the rank, DoRA has a lower loss than LoRA", half, lora, "loss", aside=True, vary=True)
    f.ahead("with rank 1, DoRA has a lower loss than LoRA", half, single, "loss", aside=True)
    f.ahead("with the same rank, DoRA reaches 90 % in fewer steps than LoRA", same, lora, "steps", aside=True)
    f.ahead("with half the rank, DoRA reaches 90 % in fewer steps than LoRA", half, lora, "steps", aside=True)
    f.result = f"The share of the unseen examples that is solved is {listed(runs, solved)}."


@claim(
    "LoRA changes the length and the direction of weights together; full fine-tuning and DoRA do not",
    source="Liu et al. 2024, DoRA, §3.2, arXiv:2402.09353",
    lesson=14,
)
def dora_directions(f):
    """A new table. At four points in time, for each matrix q and v of each layer: how much the length of its rows has
    changed, and 1 − cosine of the change of their direction, means over rows. The paper correlates the two over
    matrices and points in time; it reports a positive correlation for LoRA and negative ones for the others. As an
    aside the correlation is taken over the rows of a matrix at the end of training."""
    entries = f.race({"LoRA": LoRA(rank=4), "full fine-tuning": Full(), "DoRA": DoRA(rank=4)}, goal=NEW)
    jobs = [e.job | {"lr": e.lr, "watch": moved, "every": RECIPE.steps // 4} for e in entries.values()]
    found = {name: [coupled(run) for run in runs] for name, runs in zip(entries, f.repeat(trial, *jobs), strict=True)}
    f.always("with LoRA the correlation is positive", [run["time"] > 0 for run in found["LoRA"]])
    f.always("with full fine-tuning it is negative", [run["time"] < 0 for run in found["full fine-tuning"]])
    f.always("with DoRA it is negative", [run["time"] < 0 for run in found["DoRA"]])
    f.ahead("with DoRA it is lower than with LoRA", found["DoRA"], found["LoRA"], "-time", aside=True)
    for name, other in (("full fine-tuning", "LoRA"), ("DoRA", "LoRA"), ("DoRA", "full fine-tuning")):
        f.ahead(f"over rows: lower with {name} than with {other}", found[name], found[other], "-rows", aside=True)
    time, rows = ({name: mean(run[what] for run in runs) for name, runs in found.items()} for what in ("time", "rows"))
    f.result = (
        f"The mean correlation over matrices and time is {listed(time, '{:+.2f}'.format)}; over rows it is "
        f"{listed(rows, '{:+.2f}'.format)}."
    )


@claim(
    "Taking the norm as a constant in the gradient saves memory and does DoRA no harm",
    source="Liu et al. 2024, DoRA, §4.3, arXiv:2402.09353",
    lesson=14,
)
def dora_constant(f):
    """DoRA of rank 4 on a new table, with the gradient through the norm of each row and without it. Learning is as fast
    if it takes at most 0.3 doublings more steps to 90 %, which is 23 %."""
    methods = {"constant": DoRA(rank=4), "whole gradient": WholeGradientDoRA(rank=4)}
    constant, whole = f.race(methods, goal=NEW).values()
    less, more = (run["bytes"] for run in f.run(activations, [{"method": method} for method in methods.values()]))
    f.exact("it needs less memory for activations", less < more, f"{less:,} bytes, against {more:,}")
    f.not_behind("DoRA reaches 90 % in as few steps", constant, whole, "steps", margin=0.3)
    f.result = (
        f"It saves {100 * (1 - less / more):.0f} % of the activations of a step. DoRA reaches 90 % after "
        f"{steps_of(constant)} steps with it and after {steps_of(whole)} with the whole gradient."
    )


# -- VeRA, PiSSA and IA³ -----------------------------------------------------------------------------------------------


@claim(
    "VeRA matches LoRA with a tenth of its parameters",
    source="Kopiczko, Blankevoort and Asano 2024, VeRA, arXiv:2310.11454",
    quote="significantly reduces the number of trainable parameters compared to LoRA, yet maintains the same "
    "performance",
    lesson=14,
)
def vera_few_numbers(f):
    """A new table. On q and v, as in the paper: VeRA of rank 64 with 512 numbers, LoRA of rank 8 with 4,096, and as a
    control LoRA of rank 1, which has 512 as well. On all twelve matrices: VeRA of rank 57 with 1,836 numbers, LoRA of
    rank 8 with 18,432; there new examples are learned to the full by both, so only 256 examples are given."""
    few = {"vera": VeRA(rank=64), "lora": LoRA(rank=8, alpha=16), "control": LoRA(rank=1, alpha=2)}
    vera, lora, control = f.race({f"{name}, q and v": method for name, method in few.items()}, goal=NEW).values()
    many = {"vera": VeRA(rank=57, targets=MATRICES), "lora": LoRA(rank=8, alpha=16, targets=MATRICES)}
    entries = {f"{name}, all twelve": method for name, method in many.items()}
    vera_all, lora_all = f.race(entries, goal=NEW, examples=256).values()
    f.not_behind("on q and v, VeRA is as accurate as LoRA with eight times as many numbers", vera, lora)
    text = "on all twelve, VeRA is as accurate as LoRA with ten times as many numbers"
    f.not_behind(text, vera_all, lora_all, vary=False)
    f.ahead("on q and v, VeRA is more accurate than LoRA with as many numbers", vera, control, aside=True)
    f.result = (
        f"On q and v, VeRA solves {solved(vera)} of the unseen examples and LoRA {solved(lora)}; LoRA with as many "
        f"numbers as VeRA solves {solved(control)}. On all twelve matrices and from 256 examples, VeRA solves "
        f"{solved(vera_all)} and LoRA {solved(lora_all)}."
    )


@claim(
    "PiSSA converges faster than LoRA, and to a better end",
    source="Meng, Wang and Zhang 2024, PiSSA, arXiv:2404.02948",
    quote="PiSSA updates the principal components while freezing the 'residual' parts, allowing faster "
    "convergence and enhanced performance",
    lesson=14,
)
def pissa_faster(f):
    """Rank 4 on q and v, 100 steps of a new table, each with a learning rate of its own. PiSSA starts with larger A and
    B than LoRA, so a LoRA with a larger α stands beside it."""
    methods = {"LoRA": LoRA(rank=4), "PiSSA": PiSSA(rank=4), "LoRA, α = 128": LoRA(rank=4, alpha=128)}
    lora, principal, strong = f.race(methods, goal=NEW, recipe=HUNDRED).values()
    same = f.race({"PiSSA at LoRA's learning rate": PiSSA(rank=4)}, goal=NEW, recipe=HUNDRED, lr=lora.lr)
    f.ahead("PiSSA has a lower mean loss while training", principal, lora, "area")
    f.ahead("PiSSA has a lower loss after 100 steps", principal, lora, "loss")
    f.ahead(
        "at LoRA's learning rate, PiSSA has a lower loss",
        same["PiSSA at LoRA's learning rate"],
        lora,
        "loss",
        aside=True,
    )
    f.ahead("PiSSA has a lower loss than LoRA with α = 128", principal, strong, "loss", aside=True)
    f.result = (
        f"After 100 steps PiSSA solves {solved(principal)} of the unseen examples and LoRA "
        f"{solved(lora)}; LoRA with α = 128 solves {solved(strong)}."
    )


def coarse(W):
    """W in NF4 and back."""
    return qlora.dequantize(qlora.quantize(W, double_quant=False), W.shape)


def leading(W, rank):
    """The part of W with the largest singular values."""
    A, B, _ = pissa.split(W, rank)
    return B @ A


def corrections(base, rank, rounds):
    """The error of W in NF4 with a product BA of this rank beside it, in nuclear norm, summed over all matrices.

    LoftQ and PiSSA take turns: what BA leaves of W is rounded, and BA is fitted to what the rounding leaves. LoftQ
    begins with BA = 0, PiSSA with the principal part of W.
    """
    found = dict.fromkeys(("QLoRA", "LoftQ", "PiSSA"), 0.0)
    for name, W in shipped(base).named_parameters():
        if name.split(".")[-2] in MATRICES and W.ndim == 2:
            correction, principal = torch.zeros_like(W), W
            for _ in range(rounds):
                rounded = coarse(W - correction)
                correction = leading(W - rounded, rank)
                first = leading(principal, rank)
                rest = coarse(W - first)
                principal = W - rest
            made = {"QLoRA": coarse(W), "LoftQ": rounded + correction, "PiSSA": rest + first}
            for what, whole in made.items():
                found[what] += float(torch.linalg.svdvals(W - whole).sum())
    return found


@claim(
    "A base that is quantized without its principal part has a smaller error than with QLoRA or LoftQ",
    source="Meng, Wang and Zhang 2024, PiSSA, arXiv:2404.02948",
    lesson=14,
)
def pissa_quantized(f):
    """The matrices of twelve bases in NF4. QLoRA rounds W and starts with BA = 0. PiSSA takes the four largest singular
    values out before it rounds. LoftQ fits a product of rank 4 to what the rounding leaves. PiSSA and LoftQ can repeat
    this: both with one round and with five. The error is measured in the nuclear norm, as in the paper."""
    jobs = [{"base": name, "rank": 4, "rounds": rounds} for rounds in (1, 5) for name in BASES]
    found = f.run(corrections, jobs)
    once, often = found[: len(BASES)], found[len(BASES) :]
    smaller = [run["PiSSA"] < run["QLoRA"] for run in once]
    f.always("PiSSA's error is smaller than QLoRA's, with one round", smaller, of="bases")
    for rounds, runs in (("one round", once), ("five rounds", often)):
        smaller = [run["PiSSA"] < run["LoftQ"] for run in runs]
        f.always(f"PiSSA's error is smaller than LoftQ's, each with {rounds}", smaller, of="bases")
    less = [
        {name: 100 * mean(1 - run[name] / run["QLoRA"] for run in runs) for name in ("PiSSA", "LoftQ")}
        for runs in (once, often)
    ]
    f.result = (
        f"With one round the error is smaller than QLoRA's by {listed(less[0], '{:.0f} %'.format)}; with five rounds, "
        f"by {listed(less[1], '{:.0f} %'.format)} (means over twelve bases)."
    )


@claim(
    "From few examples, IA³ learns better than other methods with as few numbers or more",
    source="Liu, Tam et al. 2022, T-Few, arXiv:2205.05638",
    quote="scales activations by learned vectors, attaining stronger performance while only introducing a "
    "relatively tiny amount of new parameters",
    lesson=14,
)
def ia3_few_numbers(f):
    """200 steps on 64 examples of a new table, and on 32 examples of a pair that the base has not seen together. IA³
    trains 768 numbers, BitFit 1,532, LoRA of rank 1 2,304 on all twelve matrices and 512 on q and v, and a prompt of
    twelve vectors 768. A prompt cannot learn the new table, so it has no part there. Full fine-tuning is an aside."""
    new = {
        "IA³": IA3(),
        "BitFit": BitFit(),
        "LoRA": LoRA(rank=1, alpha=2, targets=MATRICES),
        "full fine-tuning": Full(),
    }
    pair = {"IA³": IA3(), "BitFit": BitFit(), "LoRA": LoRA(rank=1, alpha=2), "a prompt": PromptTuning(length=12)}
    runs = {}
    for where, methods, goal, examples in (("the new table", new, NEW, 64), ("the unseen pair", pair, HELD_OUT, 32)):
        entries = {f"{method} on {where}": made for method, made in methods.items()}
        found = f.race(entries, goal=goal, examples=examples, recipe=TWO_HUNDRED)
        mine, *others = found.values()
        for other in others:
            full = isinstance(other.job["method"], Full)
            f.ahead(f"IA³ is more accurate than {other.name}", mine, other, aside=full, vary=False)
        runs |= found
    f.result = f"The share of the unseen examples that is solved is {listed(runs, solved)}."


def merging(method, lr, seed, recipe=RECIPE):
    """After training: multiplications of an example as a multiple of the base's, attached and merged, and the greatest
    difference that merging makes to a logit, relative to the greatest logit."""
    view, _ = adapt(method, NEW, lr, seed, recipe)
    tokens, whole, count = NEW.batch(32, torch.Generator().manual_seed(seed)).tokens, merge(view), {}
    with torch.no_grad():
        for name, model in (("base", shipped()), ("attached", view), ("merged", whole)):
            with FlopCounterMode(display=False) as counter:
                logits = model(tokens)
            count[name] = counter.get_total_flops()
        gap = (logits - view(tokens)).abs().max() / logits.abs().max()
    return {name: count[name] / count["base"] for name in ("attached", "merged")} | {"gap": gap.item()}


@claim(
    "Merged into the weights, DoRA, VeRA, PiSSA and IA³ cost nothing when the model is used",
    source="Liu et al. 2024, DoRA, arXiv:2402.09353; Kopiczko et al. 2024, VeRA, arXiv:2310.11454; "
    "Meng et al. 2024, PiSSA, arXiv:2404.02948; Liu, Tam et al. 2022, T-Few, arXiv:2205.05638",
    lesson=14,
)
def variants_merge(f):
    """Each is trained for 100 steps on a new table and merged. The multiplications of an example are counted, and the
    logits are compared."""
    methods = {"DoRA": DoRA(rank=4), "VeRA": VeRA(rank=64), "PiSSA": PiSSA(rank=4), "IA³": IA3()}
    jobs = [{"method": method, "lr": 0.1, "seed": f.seeds[0], "recipe": HUNDRED} for method in methods.values()]
    found = dict(zip(methods, f.run(merging, jobs), strict=True))
    for name, run in found.items():
        numbers = f"{run['merged']:.3f} times the base's, {run['attached']:.3f} when attached"
        f.exact(f"{name}, merged, needs the multiplications of the base", run["merged"] == 1, numbers)
        f.exact(f"{name}, merged, gives the same logits up to rounding", run["gap"] < 1e-4, f"{run['gap']:.0e} apart")
    attached = listed(found, lambda run: f"{run['attached']:.2f}")
    merged = max(run["merged"] for run in found.values())
    f.result = (
        f"Before merging, the multiplications are {attached} times those of the base; after merging they are at most "
        f"{merged:.2f} times those of the base."
    )
