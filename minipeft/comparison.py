"""The main job: the shipped base is adapted to one task with every method, over several seeds.

A method joins by a line in CONTESTANTS: a recipe and its learning rate, chosen by `sweep` on lines not reported here.
"""

import csv
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from tqdm.auto import tqdm

from minipeft import deltas
from minipeft.bases import base
from minipeft.methods import Full, LoRA
from minipeft.tasks import Mixture
from minipeft.training import VALIDATION, evaluate, fit
from minipeft.wrapping import Recipe, detach, trainable

STEPS = 300
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # every method is offered the same ones


@dataclass(frozen=True)
class Contestant:
    recipe: Recipe
    lr: float


CONTESTANTS = (  # the rates are those of benchmarks/rates.json
    Contestant(Full(), 1e-2),
    Contestant(LoRA(rank=1), 1e-2),
    Contestant(LoRA(rank=2), 3e-2),
    Contestant(LoRA(rank=4), 3e-2),
    Contestant(LoRA(rank=8), 3e-2),
)


def rate_of(recipe):
    """The learning rate that the sweep found for this recipe; 0.01 for one that took no part."""
    return next((c.lr for c in CONTESTANTS if c.recipe == recipe), 1e-2)


def adapt(recipe, lr, task, steps, seed):
    """One run from a fresh base: returns the adapted model and its History. `seed` draws initialisation and data."""
    model = base()
    torch.manual_seed(seed)
    recipe.attach(model)
    history = fit(model, task, steps=steps, lr=lr, seed=seed, progress=False)
    return model, history


def compare(task, contestants=CONTESTANTS, steps=STEPS, seeds=3, progress=True, after=None):
    """One row for each contestant, a dictionary:

    method, parameters (trained), percent (of the base), lr; lists over seeds: accuracy (on the task), kept_attached and
    kept_detached (on the pretraining mixture), seconds (of training); bytes (of the saved delta).

    after: called as `after(recipe, seed, model)` at the end of each run, while the delta is on the model.
    """
    rows = []
    total = sum(p.numel() for p in base().parameters())
    with tqdm(total=len(contestants) * seeds, disable=not progress, leave=False) as bar:
        for c in contestants:
            row = {"method": str(c.recipe), "lr": c.lr}
            row |= {key: [] for key in ("accuracy", "kept_attached", "kept_detached", "seconds")}
            for seed in range(seeds):
                bar.set_description(f"{c.recipe}, seed {seed}")
                model, history = adapt(c.recipe, c.lr, task, steps, seed)
                row["parameters"] = sum(p.numel() for p in trainable(model).values())
                row["percent"] = 100 * row["parameters"] / total
                row["accuracy"].append(evaluate(model, task).accuracy)
                row["kept_attached"].append(evaluate(model, Mixture()).accuracy)
                row["seconds"].append(history.seconds)
                with tempfile.TemporaryDirectory() as folder:
                    row["bytes"] = deltas.save(model, Path(folder) / "delta.safetensors")
                if after:
                    after(c.recipe, seed, model)
                row["kept_detached"].append(evaluate(detach(model), Mixture()).accuracy)
                bar.set_postfix(accuracy=f"{row['accuracy'][-1]:.2f}")
                bar.update()
            rows.append(row)
    return rows


def sweep(tasks, contestants=CONTESTANTS, rates=RATES, steps=STEPS, seeds=(100, 101), progress=True):
    """Every contestant at every rate, on the validation sample of every task.

    Returns {method: {rate: [one dictionary of task, seed, accuracy and loss for each run]}}. Seeds and lines are none
    of those that `compare` reports. A run that diverges counts as accuracy 0, loss infinite.
    """
    found = {str(c.recipe): {f"{lr:g}": [] for lr in rates} for c in contestants}
    runs = list(product(contestants, rates, tasks, seeds))
    bar = tqdm(runs, disable=not progress, leave=False)
    for c, lr, goal, seed in bar:
        bar.set_description(f"{c.recipe} on {goal}, rate {lr:g}, seed {seed}")
        try:
            score = evaluate(adapt(c.recipe, lr, goal, steps, seed)[0], goal, seed=VALIDATION)
            accuracy, loss = score.accuracy, score.loss
        except FloatingPointError:
            accuracy, loss = 0.0, float("inf")
        run = {"task": str(goal), "seed": seed, "accuracy": round(accuracy, 4), "loss": round(loss, 6)}
        found[str(c.recipe)][f"{lr:g}"].append(run)
    return found


def best_rate(by_rate):
    """The rate of least validation loss, over all tasks and seeds, from one method's part of what `sweep` gives."""
    return float(min(by_rate, key=lambda rate: sum(run["loss"] for run in by_rate[rate])))


def write_csv(rows, path):
    """The rows of `compare` as a table; what is a list over seeds becomes mean, least and greatest."""
    flat = []
    for row in rows:
        flat.append({})
        for key, value in row.items():
            if isinstance(value, list):
                flat[-1] |= {key: sum(value) / len(value), f"{key}_min": min(value), f"{key}_max": max(value)}
            else:
                flat[-1][key] = value
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, flat[0])
        writer.writeheader()
        writer.writerows(flat)
