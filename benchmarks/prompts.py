"""What prompts can and cannot do, beside the other methods. Prints tables and stores every run in prompts.json.

    python benchmarks/prompts.py            about half an hour on two cores; runs that are stored are not made again

1. Select: a prompt of four vectors on a task that the base knows, a held-out pair and a new table.
2. Teach: the new table, trained for long, by LoRA in two places and by prompts: 512 parameters, and 1,024 for the last.
3. Few examples: a held-out pair from eight examples; accuracy on those and on unseen ones.

Learning rates are chosen for each method by the same sweep, on validation examples and other seeds than those
reported: for 1 that of learning_rates.json, for 2 three of them at full length, for 3 all of them, on eight examples.
"""

import json
import platform
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from minipeft.comparison import (
    LEARNING_RATES,
    STEPS,
    TunedMethod,
    best_learning_rate,
    compare,
    learning_rate_of,
    sweep,
)
from minipeft.methods import Full, LoRA, Pfeiffer, PrefixTuning, PromptTuning, PTuningV2
from minipeft.tasks import task

OUT = Path(__file__).with_suffix(".json")
KNOWN, HELD_OUT, NEW = (task(name) for name in ("reverse+red", "reverse+blue", "reverse+violet"))
FAMILIES = [
    Full(),
    LoRA(rank=4),
    Pfeiffer(size=16),
    PromptTuning(length=4),
    PTuningV2(length=4),
    PrefixTuning(length=4),
]


def select(stored):
    method = PromptTuning(length=4)
    for goal in (KNOWN, HELD_OUT, NEW):
        report(stored, f"select: {goal}", goal, [(method, learning_rate_of(method))], STEPS, seeds=5)


def teach(stored):
    methods = [LoRA(rank=2, targets=("o",)), LoRA(rank=1), PromptTuning(length=8), PromptTuning(length=16)]
    best = tuned(stored, "teach: learning rates", NEW, methods, (1e-2, 3e-2, 1e-1), 2000, seeds=(100,))
    report(stored, f"teach: {NEW}", NEW, best, 2000, seeds=3)


def few(stored):
    name = "few: learning rates, 8 examples"
    best = tuned(stored, name, HELD_OUT, FAMILIES, LEARNING_RATES, STEPS, seeds=(100,), examples=8)
    report(stored, f"few: 8 examples of {HELD_OUT}", HELD_OUT, best, STEPS, seeds=5, examples=8)


def tuned(stored, name, goal, methods, learning_rates, steps, seeds, examples=None):
    """The best learning rate of each method, as pairs; a list, because a method may hold a dictionary."""
    found = stored.setdefault(name, {})
    tuned_methods, keep = [TunedMethod(method, 0) for method in methods], lambda found: save(stored)
    sweep((goal,), tuned_methods, learning_rates, steps, seeds, examples, found, workers=None, on_run=keep)
    return [(method, best_learning_rate(found[str(method)])) for method in methods]


def report(stored, name, goal, tuned_methods, steps, seeds, examples=None):
    rows = stored.setdefault(name, [])
    there = {row["method"] for row in rows}
    new = [TunedMethod(method, lr) for method, lr in tuned_methods if str(method) not in there]
    if new:
        rows += compare(goal, new, steps, seeds, examples, workers=None)
        save(stored)
    columns = ("method", "parameters", "learning rate", "accuracy on its own examples, %", "on unseen ones, %")
    table = Table(*columns, title=f"{name}, {steps} steps")
    for row in rows:
        cells = [" ".join(f"{100 * a:.0f}" for a in row.get(key, ())) for key in ("training_accuracy", "accuracy")]
        table.add_row(row["method"], f"{row['parameters']:,}", f"{row['lr']:g}", *cells)
    Console().print(table)


def save(stored):
    stored["made with"] = {"torch": torch.__version__, "python": platform.python_version()}
    OUT.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    questions = {"few": few, "select": select, "teach": teach}
    for name in sys.argv[1:] or questions:
        questions[name](json.loads(OUT.read_text()) if OUT.exists() else {})
