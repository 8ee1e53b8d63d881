"""The main job: the shipped base is adapted to one task with every method, over several seeds.

A method joins by a line in TUNED_METHODS: the method with its settings and its learning rate, which `tune` chose on
examples that are not reported here.
"""

import csv
import io
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from minipeft import deltas
from minipeft.arguments import a_task, checked
from minipeft.attach import Method
from minipeft.lab.pool import Lab
from minipeft.lab.trial import trial
from minipeft.methods import (
    IA3,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
    VeRA,
)
from minipeft.tasks import Task, answer
from minipeft.tasks import examples as words_of
from minipeft.training import RECIPE

SOURCES = ("reverse+plain", "copy+blue", "sort+red")


@dataclass(frozen=True)
class TunedMethod:
    """A method, its learning rate, and for a fusion the tasks whose adapters it fuses, trained first."""

    method: Method
    lr: float
    sources: tuple[str, ...] = ()


TUNED_METHODS = (  # the learning rates that `tune` finds for reverse+blue and reverse+violet together
    TunedMethod(Full(), 3e-2),
    TunedMethod(LoRA(rank=1, alpha=2), 3e-2),
    TunedMethod(LoRA(rank=2, alpha=4), 3e-2),
    TunedMethod(LoRA(rank=4), 3e-2),
    TunedMethod(LoRA(rank=8, alpha=16), 3e-2),
    TunedMethod(PromptTuning(length=4), 1.0),
    TunedMethod(PTuning(length=4), 1e-2),
    TunedMethod(PrefixTuning(length=4), 3e-1),
    TunedMethod(PTuningV2(length=4), 3e-1),
    TunedMethod(Houlsby(size=8), 3e-2),
    TunedMethod(Pfeiffer(size=16), 3e-2),
    TunedMethod(ParallelAdapter(size=16), 1e-2),
    TunedMethod(AdapterFusion(adapters=3), 1e-2, SOURCES),
    TunedMethod(BitFit(), 1e-1),
    TunedMethod(IA3(), 3e-1),
    TunedMethod(AdaLoRA(rank=1, initial_rank=2), 1e-1),
    TunedMethod(QLoRA(rank=2, alpha=4), 3e-2),
    TunedMethod(DoRA(rank=4), 1e-1),
    TunedMethod(VeRA(rank=64), 3e-1),
    TunedMethod(PiSSA(rank=4), 1e-1),
)


def tuned_method(method):
    """The line of TUNED_METHODS for this method, or one made for it, with the learning rate of its kind."""
    same = [c for c in TUNED_METHODS if c.method == method]
    sources = SOURCES[: method.adapters] if isinstance(method, AdapterFusion) else ()
    return same[0] if same else TunedMethod(method, learning_rate_of(method), sources)


def learning_rate_of(method):
    """The learning rate that tuning found for this method, or for another configuration of it; else 0.01."""
    same = [c.lr for c in TUNED_METHODS if c.method == method]
    alike = [c.lr for c in TUNED_METHODS if type(c.method) is type(method)]
    return (same + alike + [1e-2])[0]


def compare(goal, tuned_methods=TUNED_METHODS, seeds=1, recipe=RECIPE, examples=None, lab=None, on_row=None,
            base="letters-d64"):  # fmt: skip
    """One row for each method, a dictionary:

    method, parameters (trained), percent (of the base), lr, bytes (of the saved delta), and lists over seeds of what
    `trial` tells: accuracy, loss, retention, reached, ...; answers (to the example words of the task). Of a run that
    diverged, there is None for what it does not tell.

    Args:
        examples: train on so many examples of the task instead of new ones at every step; each seed draws its own.
        lab: a Lab; by default one of as many processes as there are cores, which keeps nothing.
        base: the name of the shipped base.
        on_row: called as `on_row(row)` when a method has made all its runs, in whichever order they finish.
    """
    a_task("compare", goal)
    seeds = range(checked("compare: seeds", seeds, int))
    order = sorted(range(len(tuned_methods)), key=lambda i: not tuned_methods[i].sources)  # what takes long goes first
    jobs = [(i, seed, job(tuned_methods[i], goal, seed, recipe, examples, base)) for i in order for seed in seeds]
    whose = {id(job): (i, seed) for i, seed, job in jobs}
    runs, rows = [{} for _ in tuned_methods], {}

    def on_done(job, result):
        i, seed = whose[id(job)]
        runs[i][seed] = result
        if len(runs[i]) == len(seeds):
            rows[i] = row(tuned_methods[i], [runs[i][seed] for seed in seeds])
            if on_row:
                on_row(rows[i])

    with nullcontext(lab) if lab else Lab() as own:
        own(trial, [job for _, _, job in jobs], on_done)
    return [rows[i] for i in range(len(tuned_methods))]


def job(c, goal, seed, recipe=RECIPE, examples=None, base="letters-d64"):
    """The trial of a TunedMethod."""
    settings = {"recipe": recipe, "look": shown, "base": base} | ({"examples": examples} if examples else {})
    return {"method": c.method, "goal": goal, "lr": c.lr, "seed": seed, "sources": c.sources} | settings


def shown(view, base, goal):
    """What the table shows beside what every trial tells."""
    with tempfile.TemporaryDirectory() as folder:
        size = deltas.save(view, Path(folder) / "delta.safetensors")
    whole = sum(p.numel() for p in base.parameters())
    words = words_of(goal)[0] if isinstance(goal, Task) else []
    return {"bytes": size, "whole": whole, "answers": [answer(view, word) for word in words]}


def row(c, runs):
    """The row of a TunedMethod; None stands for what a run that diverged does not tell."""
    fullest = max(runs, key=len)
    parameters, whole = fullest["parameters"], fullest.get("whole")
    once = {"method": str(c.method), "lr": c.lr, "parameters": parameters}
    once |= {"percent": 100 * parameters / whole if whole else None, "bytes": fullest.get("bytes")}
    names = [name for name in (*fullest, "answers") if name not in (*once, "whole")]
    return once | {name: [run.get(name) for run in runs] for name in names}


def as_csv(rows):
    """The rows of `compare` as the text of a table; what is a list over seeds becomes mean, least and greatest."""
    flat = []
    for row in rows:
        flat.append({})
        for key, value in row.items():
            if not isinstance(value, list):
                flat[-1][key] = value
            elif all(isinstance(v, int | float) for v in value):
                flat[-1] |= {key: sum(value) / len(value), f"{key}_min": min(value), f"{key}_max": max(value)}
    names = list(dict.fromkeys(name for line in flat for name in line))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, names, restval="")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()
