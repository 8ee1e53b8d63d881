"""AdapterFusion against a fresh adapter and against going on with one source, for lesson 5.

    python benchmarks/fusion.py         five minutes on two quiet cores; runs that are stored are not made again

The goal is left+violet with few examples. Three shelves of sources: "fusion" has both parts pure (nothing happens to
the letters in left+plain, nor to the places in copy+violet); "one tangled" has the table with an operation that is not
wanted, reverse+violet; "both tangled" has also the operation with a table that is not wanted, left+next.

    learning rates   16 examples, seeds 100 and 101, every learning rate that `comparison` offers; loss and accuracy on
                     validation examples
    race             80 steps of 16; 16 examples, seeds 0 to 4 or 0 to 2, and 64 examples, seeds 0 to 2; each seed has
                     sources of its own
    long             300 steps of 16, 64 examples, seeds 0 to 2

Whoever has the name of a task goes on with the adapter of this task. In race and long, accuracy is that of the test
examples and `chosen` the loss on 16 examples more, by which one of the sources may be chosen.

Stored in fusion.json as {part: {job: result}}.
"""

import json
from functools import cache
from pathlib import Path

import torch

from minipeft import AdapterFusion, Pfeiffer, base, evaluate, fit, load, task
from minipeft.comparison import LEARNING_RATES, learning_rate_of, parallel
from minipeft.deltas import delta_of
from minipeft.tasks import Few
from minipeft.training import VALIDATION

OUT = Path(__file__).with_suffix(".json")
GOAL = task("left+violet")
SHELVES = {
    "fusion": ("left+plain", "copy+violet", "reverse+plain"),
    "one tangled": ("left+plain", "reverse+violet", "reverse+plain"),
    "both tangled": ("left+next", "reverse+violet", "reverse+plain"),
}
LONGER = {"left+next": 300, "reverse+violet": 350}  # steps of the sources that are learned slowly; 100 for the others
BEST = {"fusion": 3e-2, "fresh": 3e-3}  # by `learning rates`; 0.01 for those who go on


class Job(tuple):
    """(part, who, examples, lr, seed); `parallel` shows the method."""

    method = property(lambda self: self[1])

    def __str__(self):
        part, who, examples, lr, seed = self
        return f"{who}, {examples} examples, seed {seed}" + f", learning rate {lr:g}" * (part == "learning rates")


@cache
def source(name, seed):
    """An adapter for a task of its own."""
    torch.manual_seed(seed)
    model = Pfeiffer(size=16).attach(base())
    lr = learning_rate_of(Pfeiffer(size=16))
    fit(model, task(name), steps=LONGER.get(name, 100), lr=lr, batch_size=32, seed=seed, device="cpu", progress=False)
    return delta_of(model)


def started(who, seed):
    torch.manual_seed(seed)
    if who == "fresh":
        return Pfeiffer(size=16).attach(base())
    if who not in SHELVES:
        return load(source(who, seed), base())
    found = [source(name, seed) for name in SHELVES[who]]
    torch.manual_seed(seed)
    method = AdapterFusion(adapters=len(found))
    model = method.attach(base())
    method.fill(model, found)
    return model


def run(job):
    part, who, examples, lr, seed = job
    model = started(who, seed)
    steps = 300 if part == "long" else 80
    settings = {"steps": steps, "lr": lr, "batch_size": 16, "seed": seed, "device": "cpu", "progress": False}
    try:
        fit(model, Few(GOAL, examples, seed), **settings)
    except FloatingPointError:
        return {"accuracy": 0.0, "loss": None}
    if part == "learning rates":
        score = evaluate(model, GOAL, seed=VALIDATION)
        return {"accuracy": round(score.accuracy, 4), "loss": round(score.loss, 4)}
    chosen = evaluate(model, Few(GOAL, 16, 1000 + seed), 16).loss
    return {"accuracy": round(evaluate(model, GOAL).accuracy, 4), "chosen": round(chosen, 4)}


def jobs():
    for seed in (100, 101):
        for who in ("fusion", "fresh", "left+plain"):
            yield from (Job(("learning rates", who, 16, lr, seed)) for lr in LEARNING_RATES)
    pure, tangled = ("fusion", "fresh", "left+plain", "copy+violet"), ("one tangled", "both tangled", "left+next")
    for part, examples, seeds, names in (
        ("race", 16, 5, pure),
        ("race", 16, 3, tangled),
        ("race", 64, 3, ("fusion", "left+plain")),
        ("long", 64, 3, ("fusion", "left+plain")),
    ):
        for seed in range(seeds):
            for who in names:
                lr = BEST["fusion"] if who in SHELVES else BEST.get(who, 1e-2)
                yield Job((part, who, examples, lr, seed))


def main():
    stored = json.loads(OUT.read_text()) if OUT.exists() else {}

    def keep(done, result):
        stored.setdefault(done[0][0], {})[str(done[0])] = result
        ordered = {}
        for job in jobs():
            if str(job) in stored.get(job[0], {}):
                ordered.setdefault(job[0], {})[str(job)] = stored[job[0]][str(job)]
        OUT.write_text(json.dumps(ordered, indent=1) + "\n")

    parallel(run, [(job,) for job in jobs() if str(job) not in stored.get(job[0], {})], workers=None, on_done=keep)
    for part, results in stored.items():
        for job, result in results.items():
            print(f"{part:14} {job:54}", *(f"{name} {value}" for name, value in result.items()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
