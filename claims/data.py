"""Few examples: who generalises from 8 examples, who needs 1,024, and whether fused adapters help."""

from functools import cache
from itertools import product

import torch

from claims.lab import HELD_OUT, train
from claims.ledger import beats, claim, column, several
from minipeft import plots
from minipeft.bases import base
from minipeft.comparison import LEARNING_RATES, learning_rate_of
from minipeft.deltas import delta_of, load
from minipeft.methods import AdapterFusion, BitFit, Full, LoRA, Pfeiffer, PrefixTuning, PromptTuning
from minipeft.tasks import Few, task
from minipeft.training import VALIDATION, evaluate, fit

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
FAMILIES = (Full(), LoRA(rank=4), BitFit(), Pfeiffer(size=16), PromptTuning(length=4), PrefixTuning(length=4))
CHOOSING = {
    8: (8,),
    32: (16, 32, 64),
    128: (128, 256, 512, 1024),
}  # the learning rate is swept at these sizes, for those


def few(f, methods, size):
    """`size` examples of the held-out pair, 200 steps of 32: for each method a list of one result per seed."""
    at = next(chosen for chosen, sizes in CHOOSING.items() if size in sizes)
    job = {"goal": HELD_OUT, "steps": 200, "batch": 32}
    swept = f.tuned(train, [job | {"method": r, "examples": at} for r in methods], LEARNING_RATES, seeds=())
    return f.seeds(
        train, [job | {"method": r, "examples": size, "lr": lr} for r, (lr, _) in zip(methods, swept, strict=True)]
    )


@claim(
    "Small methods overfit less on few examples",
    "Li & Liang 2021; Lester et al. 2021; Ben Zaken et al. 2022",
    "8 to 1,024 examples of a held-out pair, 200 steps of 32; seven learning rates for each method at 8, 32 and 128 "
    "examples",
    15,
)
def few_examples(f):
    found = {size: few(f, FAMILIES, size) for size in SIZES}
    full = {size: column(runs[0]) for size, runs in found.items()}
    for i, method in enumerate(FAMILIES[1:], 1):
        mine = {size: column(runs[i]) for size, runs in found.items()}
        for size in (8, 64):
            seen = max(mine[size] + full[size]) > 0.05
            f.state(
                f"{method}, {size} examples: more accurate on unseen ones than full fine-tuning",
                beats(mine[size], full[size]) if seen else None,
                f"{several(mine[size])}; full {several(full[size])}",
            )
    for size in (8, 64, 1024):
        each = ", ".join(f"{r} {several(column(found[size][i]))}" for i, r in enumerate(FAMILIES))
        f.measured += f"{size:,} examples: {each}. "
    large = [0, 1, 3]  # full, LoRA, the adapter
    training = [run["training_accuracy"] for i in large for run in found[8][i]]
    unseen = [accuracy for i in large for accuracy in column(found[8][i])]
    f.state(
        "it is overfitting: full, LoRA and the adapter solve the 8 examples, and nothing else",
        min(training) > 0.9 and max(unseen) < 0.1,
        f"on these examples {several(training)}, on unseen ones {several(unseen)}",
    )
    rows = [(r, *(several(column(found[size][i])) for size in SIZES)) for i, r in enumerate(FAMILIES)]
    series = {str(r): {size: column(found[size][i]) for size in SIZES} for i, r in enumerate(FAMILIES)}
    f.picture(
        "few-examples",
        f"Accuracy on {HELD_OUT} against the number of training examples, 8 to 1,024, for six "
        "methods, with the range over three seeds; the numbers are those of the table above",
        lambda: plots.accuracy_by_size(series, xlabel="training examples", ylabel="accuracy on unseen examples"),
    )
    f.table("Accuracy on unseen examples, by the number of training examples", ("", *SIZES), rows)


SOURCES = {
    "pure": ("left+plain", "copy+violet", "reverse+plain"),
    "tangled": ("reverse+violet", "left+violet", "copy+red"),
}
TARGETS = {"pure": task("left+violet"), "tangled": task("swap+violet")}


@cache
def source(name, seed):
    """An adapter, trained on a task of its own."""
    model = base()
    torch.manual_seed(seed)
    model = Pfeiffer(size=16).attach(model)
    fit(model, task(name), steps=300, lr=learning_rate_of(Pfeiffer(size=16)), seed=seed, device="cpu", progress=False)
    return delta_of(model)


def transfer(way, size, lr, seed, kind="tangled"):
    """Learn the target from `size` examples: "fresh", "warm" (go on with the best source), "fusion" or "full"."""
    sources, target = SOURCES[kind], TARGETS[kind]
    given = Few(target, size, seed)
    model = base()
    torch.manual_seed(seed)
    method = {"full": Full(), "fusion": AdapterFusion(adapters=len(sources))}.get(way, Pfeiffer(size=16))
    if way == "warm":  # the best source is the one with the least loss on the examples that there are
        starts = [load(source(name, seed), model) for name in sources]
        adapted = min(starts, key=lambda start: evaluate(start, given, size=size).loss)
    else:
        adapted = method.attach(model)
    if way == "fusion":
        method.fill(adapted, [source(name, seed) for name in sources])
    try:
        fit(adapted, given, steps=200, lr=lr, batch_size=32, seed=seed, device="cpu", progress=False)
    except FloatingPointError:
        return {"accuracy": 0.0, "validation": None}
    validation = evaluate(adapted, target, seed=VALIDATION).loss
    return {"accuracy": evaluate(adapted, target).accuracy, "validation": validation}


@claim(
    "AdapterFusion helps a task with few data",
    "Pfeiffer et al. 2021",
    "Three adapters, for tasks that have the parts of the new one alone (pure) or its table with another operation "
    "(tangled); then 16 and 64 examples, 200 steps of 32, four learning rates for each way",
    5,
)
def fusion(f):
    ways, rows = ("fusion", "fresh", "warm", "full"), []
    names = {"fresh": "a fresh adapter", "full": "full fine-tuning", "warm": "going on with the best of the sources"}
    for kind, size in product(SOURCES, (16, 64)):
        job = {"size": size} | ({"kind": kind} if kind != "tangled" else {})
        found = f.tuned(transfer, [job | {"way": w} for w in ways], (1e-3, 3e-3, 1e-2, 3e-2))
        scores = {w: column(runs) for w, (_, runs) in zip(ways, found, strict=True)}
        for other, name in names.items():
            numbers = f"{several(scores['fusion'])}; {several(scores[other])}"
            f.state(
                f"{kind}, {size} examples: more accurate than {name}", beats(scores["fusion"], scores[other]), numbers
            )
        f.measured += f"{kind}, {size} examples: " + ", ".join(f"{w} {several(scores[w])}" for w in ways) + ". "
        rows += [(kind, size, w, f"{lr:g}", several(scores[w])) for w, (lr, _) in zip(ways, found, strict=True)]
    f.table("Accuracy on the new task", ("sources", "training examples", "", "learning rate", "accuracy"), rows)
    for kind, sources in SOURCES.items():
        f.note(f"{kind.capitalize()}: {', '.join(sources)}; then {TARGETS[kind]}.")
