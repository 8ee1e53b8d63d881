"""Whether the claims hold on a real language model: SmolLM2, 135 million parameters, learns the language reference.

Each run takes 30 steps of four windows of 64 tokens, so that it ends within two minutes on one core. Runs are few, so
most statements compare two methods on each of 24 test windows, whose losses are means over three seeds.
"""

import math
from statistics import mean

import torch

from claims.ledger import Asking, Entry, claim, told
from minipeft import plots
from minipeft.attach import detach, trainable
from minipeft.bases import base
from minipeft.deltas import updates
from minipeft.lab import adapt
from minipeft.lab.tuning import Tuning, rate, score
from minipeft.methods import Full, LoRA, Pfeiffer, PromptTuning, QLoRA
from minipeft.methods.qlora import dequantize, quantize
from minipeft.targets import match
from minipeft.training import Recipe, evaluate, loss_of
from minipeft.worlds.reference import OwnWords, Reference

SHORT = Recipe(steps=30, batch_size=4)
SEEDS, TUNING_SEED = 3, 100
WORDS = tuple(range(1000, 1016))  # tokens, such as prompts start from
MATRICES = tuple(f"blocks.{i}.{name}" for i in (0, 10, 20, 29) for name in ("attn.q", "attn.o", "mlp.up", "mlp.down"))
TOP, ALIKE = 10, 0.5  # of how many singular vectors intruders are sought, and below which cosine they are new

METHODS = {  # and the half decade of learning rates where their search begins
    "full": (Full(), -8),
    "LoRA, r 8": (LoRA(rank=8, alpha=16, targets="all-linear"), -5),
    "LoRA, r 1": (LoRA(rank=1, alpha=2, targets="all-linear"), -4),
    "LoRA, r 32": (LoRA(rank=32, alpha=64, targets="all-linear"), -5),
    "LoRA, r 42, q and v": (LoRA(rank=42, alpha=84, targets=("q", "v")), -5),
    "QLoRA, r 8": (QLoRA(rank=8, alpha=16, targets="all-linear"), -5),
    "adapter": (Pfeiffer(size=32), -5),
    "prompt": (PromptTuning(length=16, init=WORDS), -3),
}


def on_reference(method, lr, seed, recipe=SHORT, look=None):
    """One run: loss on the test windows, each (`windows`) and all; `validation`; `own`, the loss on the base's words."""
    start = base("smollm2")
    found = {"parameters": sum(p.numel() for p in trainable(method.attach(start)).values())}
    try:
        view, history = adapt(method, Reference(), lr, seed, recipe, "smollm2")
    except FloatingPointError:
        return found | dict.fromkeys(("loss", "validation", "own", "area", "windows"))
    found |= {"area": mean(history.loss)} | losses(view)
    return found | (look(view) if look else {})


def losses(model):
    """Mean losses on what is kept of the reference and on the base's own words, in nats; and on each test window."""
    windows = on_windows(model)
    found = {"loss": mean(windows), "own": evaluate(model, OwnWords()).loss}
    return found | {"validation": evaluate(model, Reference("validation")).loss, "windows": windows}


@torch.no_grad()
def on_windows(model):
    model.eval()
    test = Reference("test").every()
    rows = zip(test.tokens, test.targets, strict=True)
    return [round(loss_of(model(tokens[None]), targets[None]).item(), 4) for tokens, targets in rows]


def spectrum(view):
    """Of 16 matrices: the share of the energy of ΔW in its largest 8 and 64 directions, and the intruder dimensions."""
    found = {"top 8": [], "top 64": [], "intruders": []}
    changes = updates(view)
    for name in MATRICES:
        W, change = changes[f"{name}.weight"]
        energy = torch.linalg.svdvals(change).square()
        shares = energy.cumsum(0) / energy.sum()
        found["top 8"].append(round(shares[7].item(), 4))
        found["top 64"].append(round(shares[63].item(), 4))
        U = torch.linalg.svd(W + change, full_matrices=False)[0][:, :TOP]
        alike = (torch.linalg.svd(W, full_matrices=False)[0].T @ U).abs().amax(0)
        found["intruders"].append(int((alike < ALIKE).sum()))
    return found


def race(f, *names, look=None):
    """{name: Entry}. The learning rate of each is chosen by the validation windows, with a seed of its own: three half
    decades are tried, and more until the best one lies between two worse ones."""
    found = {}
    for name in names:
        method, middle = METHODS[name]
        tuning = tuned(f, method, middle)
        job = {"method": method} | ({"look": look} if look else {})
        entry = Entry(name, on_reference, job, tuning.lr, tuning)
        (entry.runs,) = f.repeat(on_reference, job | {"lr": tuning.lr}, seeds=f.seeds[:SEEDS])
        found[name] = entry
    f.entries += found.values()
    return found


def tuned(f, method, middle):
    window, ask = [middle - 1, middle, middle + 1], Asking(f)
    while True:
        jobs = [{"method": method, "lr": rate(k), "seed": TUNING_SEED} for k in window]
        scores = [score(run["validation"], "validation") for run in ask(on_reference, jobs)]
        best = scores.index(min(scores))
        if 0 < best < len(window) - 1:
            by_rate = {rate(k): round(s, 3) for k, s in zip(window, scores, strict=True)}
            return Tuning(rate(window[best]), True, by_rate, len(window))
        window = [window[0] - 1, *window] if best == 0 else [*window, window[-1] + 1]


def on_each_window(entry):
    """The mean over seeds of the loss on each test window."""
    return [mean(column) for column in zip(*entry.column("windows"), strict=True)]


def lower(f, text, a, b, by=0.0, aside=False):
    """a has the lower loss on nearly every window, by so many nats. a, b: Entries, or a loss for each window."""
    x, y = (on_each_window(e) if isinstance(e, Entry) else e for e in (a, b))
    f.always(text, [one + by < other for one, other in zip(x, y, strict=True)],
             f"{mean(x):.3f} nats, against {mean(y):.3f}", aside, "windows")  # fmt: skip


def listed(entries, column="loss"):
    return ", ".join(f"{name} {told(entry.column(column), 3)}" for name, entry in entries.items())
