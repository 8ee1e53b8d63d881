"""Adapters and biases: how near they come to full fine-tuning, how they have to start, and where they stand."""

from dataclasses import dataclass
from statistics import mean
from typing import Literal

import torch
from torch import nn

from claims.ledger import HELD_OUT, NEW, claim, told
from minipeft.attach import Wrapper, swap
from minipeft.bases import base
from minipeft.lab import TUNED_METHODS, trial
from minipeft.lab.comparison import job
from minipeft.methods import Full, Houlsby, ParallelAdapter, Pfeiffer
from minipeft.methods.adapter import Bottleneck, Bottlenecks, SequentialAdapter, sublayers
from minipeft.tasks import Mixture
from minipeft.training import evaluate

HOUSE = {"Houlsby": Houlsby(size=8), "Pfeiffer": Pfeiffer(size=16), "parallel": ParallelAdapter(size=16)}
FEW = 96  # examples of the new table: enough to learn it from, too few to be sure of it


@dataclass(frozen=True)
class Started(Houlsby):
    """Houlsby's adapters with another standard deviation at the start."""

    std: float = 0.01

    def insert(self, model):
        super().insert(model)
        for adapter in (m for m in model.modules() if isinstance(m, Bottleneck)):
            for layer in (adapter.D, adapter.U):
                nn.init.trunc_normal_(layer.weight, std=self.std, a=-2 * self.std, b=2 * self.std)


@torch.no_grad()
def start(method, seed):
    """Before any training: the shift of the logits, relative to their size, and accuracy on the mixture."""
    model, tokens = base(), Mixture().batch(200, torch.Generator().manual_seed(seed)).tokens
    before = model(tokens)
    torch.manual_seed(seed)
    view = method.attach(model)
    shift = (view(tokens) - before).norm() / before.norm()
    return {"shift": shift.item(), "retention": evaluate(view, Mixture()).accuracy}


class Beside(Wrapper):
    """F(x) + A(x) in front of attention or of the MLP."""

    def __init__(self, base, adapter):
        super().__init__(base)
        self.adapter = adapter

    def forward(self, x, *rest):  # (B, T, d)
        return self.base(x, *rest) + self.adapter(x)


@dataclass(frozen=True)
class Placed(Bottlenecks):
    """One adapter per layer, behind or beside attention or the MLP; start and nonlinearity are always the same."""

    form: Literal["behind", "beside"] = "behind"
    sublayer: Literal["attn", "mlp"] = "mlp"

    def insert(self, model):
        layer = SequentialAdapter if self.form == "behind" else Beside
        for path, block, module in sublayers(model, self.sublayer):
            swap(model, path, layer(module, Bottleneck(block.norm2.weight, self.size, nn.ReLU())))


@claim(
    "Adapters come near full fine-tuning and train a few percent as many parameters",
    source="Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751",
    quote="On GLUE, we attain within 0.4% of the performance of full fine-tuning, adding only 3.6% parameters "
    "per task.",
    lesson=4,
)
def adapters(f):
    """96 examples of a table that the base has never seen leave room above and below; each seed draws its own.
    Accuracy is measured on unseen examples. The asides ask for the steps to 90 % when examples never run out."""
    few = f.race({"full": Full()} | HOUSE, goal=NEW, examples=FEW)
    many = f.race({f"{name}, new examples": method for name, method in ({"full": Full()} | HOUSE).items()}, goal=NEW)
    full = many["full, new examples"]
    for name in HOUSE:
        text = f"{name}: from {FEW} examples at most five points behind full fine-tuning"
        f.not_behind(text, few[name], few["full"])
    for name in HOUSE:
        text = f"{name}: with new examples at every step, at most a quarter more steps to 90 % than full fine-tuning"
        f.not_behind(text, many[f"{name}, new examples"], full, by="steps", margin=0.3, aside=True)
    whole, rows = full.runs[0]["parameters"], []
    for name, entry in few.items():
        trained, steps = entry.runs[0]["parameters"], many[f"{name}, new examples"].column("reached")
        arrived = [step for step in steps if step]
        seen = f"{told(arrived, 0)}; {len(arrived)} of {len(steps)} seeds" if arrived else "never"
        rows.append((name, f"{trained:,}", f"{100 * trained / whole:.1f}", told(entry.column("accuracy")), seen))
    names = ("", "trained", "% of full", f"accuracy from {FEW} examples", "steps to 90 %, new examples")
    f.table("What is trained, and what it reaches", names, rows)
    each = ", ".join(f"{name} {mean(entry.column('accuracy')):.2f}" for name, entry in few.items())
    f.result = f"From {FEW} examples, the mean accuracy on unseen ones is: {each}."


@claim(
    "Adapters have to start near the identity",
    source="Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751",
    lesson=4,
)
def near_identity(f):
    """Houlsby's adapters of size 8 learn a new table. Their weights start normal, with standard deviations from 0.0001
    to 1; the paper's is 0.01. The learning rate of each is tuned for the fewest steps to 90 %."""
    scales = (1e-4, 1e-2, 1e-1, 1.0)
    methods = {f"σ = {std:g}": Started(size=8, std=std) for std in scales}
    runs = f.race(methods, goal=NEW, tuned_by="reached")
    text = "an adapter that starts at σ = 0.01 reaches 90 % in fewer steps than one at σ = 1"
    f.ahead(text, runs["σ = 0.01"], runs["σ = 1"], by="steps")
    text = "σ = 0.0001, still nearer to the identity, takes at most a quarter more steps than σ = 0.01"
    f.not_behind(text, runs["σ = 0.0001"], runs["σ = 0.01"], by="steps", margin=0.3)
    starts = f.repeat(start, {"method": HOUSE["parallel"]}, *[{"method": m} for m in methods.values()])
    shifts = [run["shift"] for run in starts[0]]
    f.exact("the parallel adapter, whose U is zero, starts as the identity", not any(shifts), told(shifts), aside=True)
    rows = []
    for (name, entry), found in zip(runs.items(), starts[1:], strict=True):
        moved, kept = ([run[what] for run in found] for what in ("shift", "retention"))
        steps = [step or entry.runs[0]["steps"] + 1 for step in entry.column("reached")]
        rows.append((name, told(moved, 4), told(kept), told(steps, 0), told(entry.column("accuracy"))))
    names = ("", "shift of the logits at the start", "retention at the start", "steps to 90 %", "accuracy")
    f.table("One step more than the run had stands for a seed that does not arrive", names, rows)
    f.result = f"Steps to 90 %: {', '.join(f'{row[3]} at {row[0]}' for row in rows)}."


@claim(
    "A parallel adapter beats a sequential one, and the MLP is a better place for it than attention",
    source="He et al. 2022, Towards a Unified View of Parameter-Efficient Transfer Learning, §4.3 and §4.4, "
    "arXiv:2110.04366",
    lesson=4,
)
def parallel_adapters(f):
    """One adapter of size 16 per layer learns a new table. It stands behind or beside the MLP or attention, always
    with the same start, nonlinearity and number of parameters, and without a scale. Learning rates are tuned for the
    fewest steps to 90 %."""
    places = {"attn": "attention", "mlp": "the MLP"}
    methods = {
        f"{form} {place}": Placed(size=16, form=form, sublayer=sublayer)
        for form in ("beside", "behind")
        for sublayer, place in places.items()
    }
    runs = f.race(methods, goal=NEW, tuned_by="reached")
    for place in places.values():
        text = f"an adapter beside {place} reaches 90 % in fewer steps than one behind it"
        f.ahead(text, runs[f"beside {place}"], runs[f"behind {place}"], by="steps")
    for form, aside in (("beside", False), ("behind", True)):
        text = f"{form} the MLP, an adapter reaches 90 % in fewer steps than {form} attention"
        f.ahead(text, runs[f"{form} the MLP"], runs[f"{form} attention"], by="steps", aside=aside)
    middle = {name: mean(step or 501 for step in entry.column("reached")) for name, entry in runs.items()}
    order = sorted(middle, key=middle.get)
    f.result = f"Mean steps to 90 %: {', '.join(f'{middle[name]:.0f} {name}' for name in order)}."


@claim(
    "One adapter per layer does the work of two",
    source="Pfeiffer et al. 2021, AdapterFusion, arXiv:2005.00247",
    lesson=4,
)
def one_adapter(f):
    """Pfeiffer's one adapter per layer, behind the MLP, and Houlsby's two, without the LayerNorms, learn a new table:
    once with equally many parameters, once with equally wide bottlenecks, so that the one has half the parameters.
    Learning rates are tuned for the fewest steps to 90 %."""
    runs = f.race(
        {"one, size 16": Pfeiffer(size=16), "one, size 8": Pfeiffer(size=8), "two, size 8": Houlsby(8, norms=False)},
        goal=NEW,
        tuned_by="reached",
    )
    two, margin = runs["two, size 8"], 0.3
    text = "one adapter takes at most a quarter more steps to 90 % than two of half the size"
    f.not_behind(text, runs["one, size 16"], two, by="steps", margin=margin)
    text = "one adapter takes at most a quarter more steps to 90 % than two of the same size"
    f.not_behind(text, runs["one, size 8"], two, by="steps", margin=margin)
    text = "one adapter ends at no more than twice the test loss of two of half the size"
    f.not_behind(text, runs["one, size 16"], two, by="loss", margin=margin, aside=True)
    steps = {name: [step or 501 for step in entry.column("reached")] for name, entry in runs.items()}
    f.result = f"Steps to 90 %: {'; '.join(f'{name}: {told(values, 0)}' for name, values in steps.items())}."


@claim(
    "Detaching a method gives the base back",
    source="Houlsby et al. 2019, §1, arXiv:1902.00751; Hu et al. 2022, LoRA, §4, arXiv:2106.09685",
    lesson=2,
)
def detaching(f):
    """Every method of the README's table learns two tasks with ten seeds; then it is detached, and all bits of the
    base are compared. The aside asks what full fine-tuning keeps of the pretraining mixture while it is attached."""
    jobs = [job(c, goal, seed) for goal in (HELD_OUT, NEW) for c in TUNED_METHODS for seed in range(len(f.seeds))]
    runs = f.run(trial, jobs)
    same = sum(run["restored"] for run in runs)
    f.exact("after every training the base is the same, bit for bit", same == len(runs), f"{same} of {len(runs)}")
    full = [run["retention"] for run, made in zip(runs, jobs, strict=True) if isinstance(made["method"], Full)]
    text = "attached, full fine-tuning solves fewer than half of the examples of the mixture"
    f.always(text, [kept < 0.5 for kept in full], f"retention {told(full)}", aside=True)
    f.result = (
        f"The base is the same after {same} of {len(runs)} trainings. Attached, full fine-tuning solves {told(full)} "
        "of the mixture."
    )
