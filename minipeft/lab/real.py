"""Runs on a real language model: SmolLM2, 135 million parameters, learns the language reference of Python.

Each run takes 30 steps of four windows of 64 tokens, so that it ends within two minutes on one core. The learning rate
of each configuration is chosen by the validation windows, with a seed of its own: three half decades are tried, and
more until the best one lies between two worse ones. Then there are three runs with other seeds.
"""

import math
from statistics import mean, stdev

import numpy as np
import torch

from minipeft.attach import trainable
from minipeft.bases import base
from minipeft.deltas import updates
from minipeft.lab.trial import adapt
from minipeft.lab.tuning import Tuning, rate, score
from minipeft.methods import Full, LoRA, Pfeiffer, PromptTuning, QLoRA
from minipeft.tasks import rows_of
from minipeft.training import Recipe, evaluate, loss_of
from minipeft.worlds.reference import OwnWords, Reference

SHORT = Recipe(steps=30, batch_size=4)
TUNING_SEED, SEEDS = 100, (0, 1, 2)
WORDS = tuple(range(1000, 1016))  # tokens, such as prompts start from
MATRICES = tuple(f"blocks.{i}.{name}" for i in (0, 10, 20, 29) for name in ("attn.q", "attn.o", "mlp.up", "mlp.down"))
TOP, ALIKE = 10, 0.5  # of how many singular vectors intruders are sought, and below which cosine they are new
CONFIGURATIONS = {  # and the half decade of learning rates where their search begins
    "Full": (Full(), -8),
    "LoRA, r 1": (LoRA(rank=1, alpha=2, targets="all-linear"), -4),
    "LoRA, r 8": (LoRA(rank=8, alpha=16, targets="all-linear"), -5),
    "LoRA, r 32": (LoRA(rank=32, alpha=64, targets="all-linear"), -5),
    "LoRA, r 42, q and v": (LoRA(rank=42, alpha=84, targets=("q", "v")), -5),
    "QLoRA, r 8": (QLoRA(rank=8, alpha=16, targets="all-linear"), -5),
    "Pfeiffer": (Pfeiffer(size=32), -5),
    "PromptTuning": (PromptTuning(length=16, init=WORDS), -3),
}


def on_reference(method, lr, seed, recipe=SHORT, look=None):
    """One run: the `losses` at its end, the mean loss while training (`area`), its size, and what `look` finds."""
    start = base("smollm2")
    found = {"parameters": sum(p.numel() for p in trainable(method.attach(start)).values())}
    try:
        view, history = adapt(method, Reference(), lr, seed, recipe, "smollm2")
    except FloatingPointError:
        return found | dict.fromkeys(("loss", "validation", "own", "area", "windows", "said"))
    found |= {"area": mean(history.loss)} | losses(view)
    return found | (look(view) if look else {})


def losses(model):
    """Mean losses in nats, of each and all: the test windows, what the base itself has said, the validation windows."""
    windows, said = on_each(model, Reference("test")), on_each(model, OwnWords())
    validation = evaluate(model, Reference("validation")).loss
    return {"loss": mean(windows), "own": mean(said), "validation": validation, "windows": windows, "said": said}


@torch.no_grad()
def on_each(model, task):
    """The mean loss on each row of a finite task."""
    model.eval()
    whole = task.every()
    rows = [rows_of(whole, slice(i, i + 1)) for i in range(len(whole.tokens))]
    return [round(loss_of(row.logits(model), row.targets).item(), 4) for row in rows]


def spectrum(view):
    """Of 16 matrices: the share of the energy of ΔW in its largest 8 and 64 directions, and the intruder dimensions."""
    found = {"top 8": [], "top 64": [], "intruders": []}
    changes = updates(view)
    for name in MATRICES:
        W, change = changes[f"{name}.weight"]
        found["top 8"].append(round(share(change, 8), 4))
        found["top 64"].append(round(share(change, 64), 4))
        found["intruders"].append(intruders(W, change))
    return found


def share(change, k):
    """The share of the energy of ΔW, Σσᵢ², that its k largest singular directions hold."""
    energy = torch.linalg.svdvals(change).square()
    return (energy[:k].sum() / energy.sum()).item()


def intruders(W, change):
    """How many of the largest left singular vectors of W + ΔW are like none of W's: every cosine is below ALIKE."""
    U = torch.linalg.svd(W + change, full_matrices=False)[0][:, :TOP]
    cosines = torch.linalg.svd(W, full_matrices=False)[0].T @ U
    return int((cosines.abs().amax(0) < ALIKE).sum())


def tried(lab, method, rates):
    """{learning rate: its run with the tuning seed}."""
    jobs = [{"method": method, "lr": lr, "seed": TUNING_SEED} for lr in rates]
    return dict(zip(rates, lab(on_reference, jobs), strict=True))


def tuned(lab, name):
    """The Tuning of a configuration."""
    method, middle = CONFIGURATIONS[name]
    window = [middle - 1, middle, middle + 1]
    while True:
        found = tried(lab, method, [rate(k) for k in window])
        scores = [score(run["validation"], "validation") for run in found.values()]
        best = scores.index(min(scores))
        if 0 < best < len(window) - 1:
            return Tuning(rate(window[best]), True, dict(zip(found, scores, strict=True)), len(window))
        window = [window[0] - 1, *window] if best == 0 else [*window, window[-1] + 1]


def best_runs(lab, name, seeds=SEEDS, look=None):
    """(learning rate, the runs with it). Full and LoRA of rank 8 are stored with the `look` of `spectrum`."""
    method, lr = CONFIGURATIONS[name][0], tuned(lab, name).lr
    look = {"look": look} if look else {}
    return lr, lab(on_reference, [{"method": method, "lr": lr, "seed": seed} | look for seed in seeds])


def at_their_best(lab, names):
    """{name: its three runs at its own learning rate}; those of Full and of LoRA, r 8 tell their `spectrum` too."""
    looks = dict.fromkeys(("Full", "LoRA, r 8"), spectrum)
    return {name: best_runs(lab, name, look=looks.get(name))[1] for name in names}


def valley(lab, name):
    """{learning rate: validation loss} for all learning rates that were tried, with the tuning seed."""
    return {lr: math.exp(logarithm) for lr, logarithm in tuned(lab, name).scores.items()}


def frontier(lab, name):
    """[(learning rate, test loss, loss on the base's own words)] for all that were tried, with the tuning seed."""
    found = tried(lab, CONFIGURATIONS[name][0], list(valley(lab, name)))
    return [(lr, run["loss"], run["own"]) for lr, run in found.items()]


def over_seeds(runs, what="windows"):
    """The loss on each test window, or on each text that the base has `said`: an array of means over the runs."""
    return np.mean([run[what] for run in runs], axis=0)


def paired(first, second):
    """The mean of second − first, text by text, in units of its standard error: the t of a paired comparison."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    return mean(differences) * math.sqrt(len(differences)) / stdev(differences)
