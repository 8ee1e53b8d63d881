"""What a method costs when it is used: time, and bytes on disk."""

from statistics import mean

import torch

from claims.ledger import HELD_OUT, claim, told
from minipeft.bases import base
from minipeft.costs import latency
from minipeft.lab import TUNED_METHODS, trial
from minipeft.lab.comparison import job
from minipeft.methods import Full, Houlsby, LoRA, ParallelAdapter, Pfeiffer
from minipeft.views import merge

MATRICES = ("q", "k", "v", "o", "up", "down")
BEHIND = {"Houlsby": Houlsby(size=8), "Pfeiffer": Pfeiffer(size=16), "parallel": ParallelAdapter(size=16)}
HEADER = 4096  # bytes that a file may have beside its numbers


def times(batch, repeats, seed):
    """The median time of a forward pass, as a multiple of the base's; all models take turns."""
    torch.manual_seed(seed)
    lora = LoRA(rank=4, targets=MATRICES)
    models = {"base": base(), "base again": base(), "merged": merge(lora.attach(base())), "LoRA": lora.attach(base())}
    models |= {name: method.attach(base()) for name, method in BEHIND.items()}
    found = latency(models, HELD_OUT.batch(batch, torch.Generator().manual_seed(seed)), repeats)
    return {name: median / found["base"][1] for name, (_, median, _) in found.items()}


@claim(
    "At batch 1 adapters add latency, and merged LoRA adds none",
    source="Hu et al. 2022, LoRA, §3 and table 1, arXiv:2106.09685",
    quote="unlike adapters, no additional inference latency",
    lesson=4,
    alone=True,
)
def inference(f):
    """The median time of 300 forward passes of one example of 14 tokens, and of 30 passes of 256 examples, on one
    thread of a CPU. The models take turns, so every time is a multiple of the base's in the same run. "The base again"
    is a second copy of the base: it shows how well the clock can tell."""
    alone, many = (
        [f.repeat(times, {"batch": size, "repeats": repeats}, seeds=[seed])[0][0] for seed in f.seeds]
        for size, repeats in ((1, 300), (256, 30))
    )

    def took(runs, name):
        return [{"time": run[name]} for run in runs]

    for name in BEHIND:
        text = f"at batch 1 the base takes less time than the same base with {name} adapters"
        f.ahead(text, took(alone, "base again"), took(alone, name), by="-time", margin=0.05)
    text = "at batch 1 merged LoRA takes as long as the base, within five percent"
    f.near(text, took(alone, "merged"), took(alone, "base again"), by="-time", margin=0.05)
    text = "at batch 1 merged LoRA takes less time than LoRA that is not merged"
    f.ahead(text, took(alone, "merged"), took(alone, "LoRA"), by="-time", aside=True)
    for name in BEHIND:
        text = f"{name} adds a smaller share at batch 256 than at batch 1"
        f.ahead(text, took(many, name), took(alone, name), by="-time", aside=True)
    rows = [(name, *(told([run[name] for run in runs]) for runs in (alone, many))) for name in alone[0]]
    f.table("Time of a forward pass, as a multiple of the base's", ("", "batch 1", "batch 256"), rows)
    shown = ", ".join(f"{name} {mean(run[name] for run in alone):.2f}" for name in ("merged", "LoRA", *BEHIND))
    f.result = f"At batch 1, times the base: {shown}."


@claim(
    "A task is stored in the bytes of what was trained for it",
    source="Hu et al. 2022, LoRA, §4.2, arXiv:2106.09685; Houlsby et al. 2019, §1, arXiv:1902.00751",
    lesson=2,
)
def stored_bytes(f):
    """Every method of the README's table learns a held-out pair, and its checkpoint is saved, in 32 bits. What only
    training needs, such as the network that makes a P-tuning prompt, is left out of the file. AdapterFusion is left out
    of the test: it also stores the adapters that it fuses, which were trained before."""
    jobs = [job(c, HELD_OUT, seed) for c in TUNED_METHODS if not c.sources for seed in range(len(f.seeds))]
    runs = dict(zip([str(made["method"]) for made in jobs], f.run(trial, jobs), strict=True))  # one of each
    most = max(runs.values(), key=lambda run: run["bytes"] - 4 * run["parameters"])
    spare = most["bytes"] - 4 * most["parameters"]
    f.exact(
        f"a file has at most four bytes for each trained parameter and {HEADER:,} bytes beside them",
        spare <= HEADER,
        f"{len(runs)} methods, at most {spare:,} bytes beside them",
    )
    whole = runs[str(Full())]["bytes"]
    rows = [
        (name, f"{run['parameters']:,}", f"{run['bytes']:,}", f"{100 * run['bytes'] / whole:.1f}")
        for name, run in sorted(runs.items(), key=lambda item: item[1]["bytes"])
    ]
    f.table("The checkpoint of one task", ("", "trained", "bytes", "% of full fine-tuning's"), rows)
    lora = runs[str(LoRA(rank=4))]["bytes"]
    f.result = (
        f"LoRA of rank 4 stores a task in {lora:,} bytes; full fine-tuning needs {whole / lora:.0f} times as many."
    )
