"""The learning rates of the variants of LoRA, for the short runs of lesson 13: all that `comparison` offers.

    python benchmarks/variants.py       three minutes on two quiet cores; runs that are stored are not made again

Each run: 120 steps of 32 examples of reverse+blue. The loss is that of the validation examples; the lesson reports
neither these examples nor this seed. Stored in variants.json as {method: {learning rate: {accuracy, loss}}}.
"""

import json
from pathlib import Path

import torch

from minipeft import IA3, DoRA, LoRA, PiSSA, VeRA, base, evaluate, fit, task
from minipeft.comparison import LEARNING_RATES, parallel
from minipeft.training import VALIDATION

OUT = Path(__file__).with_suffix(".json")
STEPS, BATCH, SEED = 120, 32, 100
METHODS = [LoRA(rank=4), LoRA(rank=4, lr_ratio=16.0), DoRA(rank=4), VeRA(rank=64), PiSSA(rank=4), IA3()]
METHODS += [LoRA(rank=32), LoRA(rank=32, rslora=True)]


class Job(tuple):
    """(method, lr); `parallel` shows the method."""

    method = property(lambda self: self[0])


def run(job):
    method, lr = job
    goal, model = task("reverse+blue"), base()
    torch.manual_seed(SEED)
    model = method.attach(model)
    try:
        fit(model, goal, steps=STEPS, lr=lr, batch_size=BATCH, seed=SEED, device="cpu", progress=False)
    except FloatingPointError:
        return {"accuracy": 0.0, "loss": None}
    score = evaluate(model, goal, seed=VALIDATION)
    return {"accuracy": round(score.accuracy, 4), "loss": round(score.loss, 6)}


def main():
    stored = json.loads(OUT.read_text()) if OUT.exists() else {}

    def keep(job, result):
        method, lr = job[0]
        stored.setdefault(str(method), {})[f"{lr:g}"] = result
        stored[str(method)] = dict(sorted(stored[str(method)].items(), key=lambda item: float(item[0])))
        OUT.write_text(json.dumps({str(r): stored[str(r)] for r in METHODS if str(r) in stored}, indent=1) + "\n")

    jobs = [(Job((r, lr)),) for r in METHODS for lr in LEARNING_RATES if f"{lr:g}" not in stored.get(str(r), {})]
    parallel(run, jobs, workers=None, on_done=keep)
    for name, by_lr in stored.items():
        print(f"{name:30}", *(f"{lr}: {r['accuracy']:.2f} {r['loss']:.3f}" for lr, r in by_lr.items()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
