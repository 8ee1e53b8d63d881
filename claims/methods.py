"""All methods at the same two tasks, and claims that can be read off that one table."""

import torch

from claims.data import few
from claims.lab import HELD_OUT, KNOWN, NEW, train
from claims.ledger import beats, claim, column, several
from minipeft.bases import base
from minipeft.comparison import TUNED_METHODS
from minipeft.methods import BitFit, Full, Houlsby, LoRA, ParallelAdapter, Pfeiffer, PromptTuning
from minipeft.tasks import Mixture
from minipeft.training import evaluate

USUAL = (
    "300 steps of 64 new examples of a held-out pair and of a new table, at the learning rates of "
    "benchmarks/learning_rates.json"
)


def usual(f, methods, goal):
    """The usual run of these methods: for each a list of one result per seed."""
    lr = {str(c.method): c.lr for c in TUNED_METHODS}
    return f.seeds(train, [{"method": r, "goal": goal, "lr": lr[str(r)]} for r in methods])


def near(runs, full, points=0.02):
    """Is the worst seed within two points of the worst of full fine-tuning?"""
    return min(column(runs)) >= min(column(full)) - points


@torch.no_grad()
def at_start(method, seed):
    """What attaching alone does: shift of the logits (relative), and retention."""
    model, tokens = base(), Mixture().batch(200, torch.Generator().manual_seed(seed)).tokens
    before = model(tokens)
    torch.manual_seed(seed)
    model = method.attach(model)
    shift = (model(tokens) - before).norm() / before.norm()
    return {"shift": shift.item(), "retention": evaluate(model, Mixture()).accuracy}


@claim(
    "Adapters come near full fine-tuning with 1 to 5 % of its parameters, and start as the identity",
    "Houlsby et al. 2019; Pfeiffer et al. 2021; He et al. 2022",
    USUAL,
    4,
)
def adapters(f):
    methods = [Full(), Houlsby(size=8), Pfeiffer(size=16), ParallelAdapter(size=16)]
    rows = []
    for goal in (HELD_OUT, NEW):
        full, *rest = usual(f, methods, goal)
        f.measured += f"{goal}: full {several(column(full))}, "
        for method, runs in zip(methods[1:], rest, strict=True):
            f.measured += f"{method} {several(column(runs))}, "
            share = f"{100 * runs[0]['parameters'] / full[0]['parameters']:.1f} %"
            f.state(
                f"{method}, {share} of the parameters, on {goal}: worst seed within two points of full",
                near(runs, full),
                f"{several(column(runs))}; full {several(column(full))}",
            )
    starts = f.seeds(at_start, [{"method": r} for r in methods[1:]])
    for method, runs in zip(methods[1:], starts, strict=True):
        rows.append((method, several(column(runs, "shift"), 4), several(column(runs, "retention"), 3)))
    retention = [k for runs in starts for k in column(runs, "retention")]
    f.measured += f"freshly attached, retention {several(retention, 3)}"
    f.state("freshly attached, retention is above 0.99", min(retention) > 0.99, several(retention, 3))
    f.table("Freshly attached, before any training", ("", "shift of the logits (share)", "retention"), rows)


@claim("LoRA of rank 1 to 8 does what full fine-tuning does", "Hu et al. 2022, table 6", USUAL, 10)
def small_ranks(f):
    methods = [Full(), *(LoRA(rank=r) for r in (1, 2, 4, 8))]
    rows = []
    for goal in (HELD_OUT, NEW):
        full, *rest = usual(f, methods, goal)
        good = [method.rank for method, runs in zip(methods[1:], rest, strict=True) if near(runs, full)]
        f.state(
            f"{goal}: some rank up to 8 is within two points of full in every seed", good, f"ranks {good or 'none'}"
        )
        each = [f"rank {r.rank} {several(column(runs))}" for r, runs in zip(methods[1:], rest, strict=True)]
        f.measured += f"{goal}: full {several(column(full))}, {', '.join(each)}. "
        rows.append((goal, *(several(column(runs)) for runs in (full, *rest))))
    one = usual(f, [LoRA(rank=1)], NEW)[0]
    f.state("rank 1 suffices for the new table too", min(column(one)) > 0.9, several(column(one)))
    f.table("Accuracy", ("", *methods), rows)


@claim(
    "BitFit is good on little data and limited on harder tasks",
    "Ben Zaken et al. 2022",
    "16, 64 and 256 examples of a held-out pair, 200 steps of 32; a new table for 300 and 900 steps of 64; learning "
    "rates swept",
    3,
)
def bitfit(f):
    for size in (16, 64, 256):
        full, bias = few(f, [Full(), BitFit()], size)
        numbers = f"{several(column(bias))}; full {several(column(full))}"
        f.state(
            f"with {size} examples: more accurate on unseen ones than full", beats(column(bias), column(full)), numbers
        )
        f.measured += f"{size} examples: {numbers}. "
    full, bias = usual(f, [Full(), BitFit()], NEW)
    f.state(
        "on a new table it is below full fine-tuning after 300 steps",
        max(column(bias)) < min(column(full)),
        f"{several(column(bias))}; full {several(column(full))}",
    )
    lr = next(c.lr for c in TUNED_METHODS if c.method == BitFit())
    (long,) = f.seeds(train, [{"method": BitFit(), "goal": NEW, "lr": lr, "steps": 900}])
    f.measured += f"new table: {several(column(bias))} after 300 steps, {several(column(long))} after 900"
    f.state("and still after 900", max(column(long)) < 0.9, several(column(long)))


@claim(
    "Prompting selects what the model knows, weights teach what it does not",
    "a common summary of Lester et al. 2021 and Petrov et al. 2024",
    "A prompt of 4 on known, held-out and new tasks; then 512 parameters each for 1,000 steps of 32 examples, three "
    "learning rates",
    6,
)
def selects_and_teaches(f):
    prompt, f.measured = PromptTuning(length=4), "256 numbers: "
    for goal in (KNOWN, HELD_OUT):
        (runs,) = usual(f, [prompt], goal)
        f.measured += f"{goal} {several(column(runs))}, "
        f.state(f"256 numbers select {goal} ({goal.kind})", min(column(runs)) > 0.98, several(column(runs)))
    (runs,) = usual(f, [prompt], NEW)
    f.measured += f"{NEW} {several(column(runs))}. "
    f.state(f"they do not teach {NEW} ({NEW.kind})", max(column(runs)) < 0.1, several(column(runs)))
    methods = [LoRA(rank=2, targets=("o",)), LoRA(rank=1), PromptTuning(length=8)]
    job = {"goal": NEW, "steps": 1000, "batch": 32}
    found = f.tuned(train, [job | {"method": r} for r in methods], (1e-2, 3e-2, 1e-1))
    on_o, on_qv, prompts = (column(runs) for _, runs in found)
    f.measured += f"512 numbers: in o {several(on_o)}, in q and v {several(on_qv)}, in a prompt {several(prompts)}"
    f.state("512 numbers in the weights o teach the table", min(on_o) > 0.9, several(on_o))
    f.state("512 numbers in the weights q and v teach it", min(on_qv) > 0.9, several(on_qv))
    f.state("512 numbers in a prompt do not", max(prompts) < 0.5, several(prompts))
    f.table(
        "512 trained numbers, 1,000 steps",
        ("", "learning rate", "accuracy by seed"),
        [
            (r, f"{lr:g}", " ".join(f"{a:.2f}" for a in column(runs)))
            for r, (lr, runs) in zip(methods, found, strict=True)
        ],
    )


@claim(
    "A detached delta leaves the base as it was, bit for bit", "Houlsby et al. 2019, §1; Hu et al. 2022, §4.2", USUAL, 2
)
def detaching(f):
    methods = [c.method for c in TUNED_METHODS if not c.sources]
    runs = [run for goal in (HELD_OUT, NEW) for found in usual(f, methods, goal) for run in found]
    f.state(
        f"the fingerprint of all weights is the same after {len(runs)} trainings",
        all(column(runs, "restored")),
        f"{sum(column(runs, 'restored'))} of {len(runs)}",
    )
    lost = column(usual(f, [Full()], HELD_OUT)[0], "retention")
    f.measured = (
        f"{sum(column(runs, 'restored'))} of {len(runs)} the same; attached, retention of full {several(lost, 3)}"
    )
    rows = []
    for method, found in zip(methods, usual(f, methods, HELD_OUT), strict=True):
        rows.append((method, several(column(found)), several(column(found, "retention"))))
    f.state(
        "and attached, full fine-tuning forgets the mixture",
        max(lost) < 0.5,
        several(lost, 3),
    )
    f.table(f"Attached, after {HELD_OUT} without an instruction", ("", "accuracy", "retention"), rows)
