"""The peak memory of training a real language model: predicted by counting, and measured by the system.

    python -m benchmarks.memory                (Linux; needs requirements-real.txt; about two minutes)

Each method trains SmolLM2 in a process of its own, two steps of four windows of 64 tokens. It measures by how much
the resident memory rises during these steps, and adds the weights, which are there before. The allocator is told to
hand back what is freed, since otherwise the order of allocations counts as well. The prediction is the sum of

    weights       of the base, and of the method
    gradients     of what is trained
    moments       two of Adam for each trained number
    activations   what the forward pass keeps for the backward pass, weighed tensor by tensor (`costs.measure`)
    logits        and their gradient, which are there together when the backward pass begins
"""

import json
import os
import subprocess
import sys

import torch
from rich.console import Console
from rich.table import Table

from minipeft import base, costs, fit
from minipeft.costs import Memory
from minipeft.methods import Full, LoRA, PromptTuning
from minipeft.training import Recipe
from minipeft.worlds.reference import Reference

METHODS = {
    "prompt of 16": PromptTuning(length=16),
    "LoRA, r 8, q and v": LoRA(rank=8, alpha=16),
    "LoRA, r 8, all matrices": LoRA(rank=8, alpha=16, targets="all-linear"),
    "full": Full(),
}
TWO_STEPS = Recipe(steps=2, batch_size=4)


def status(field):
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


def measured(name):
    """By how much training raises the memory of a process that does nothing else, in bytes."""
    task, view = Reference(), METHODS[name].attach(base("smollm2"))
    with torch.no_grad():
        view(task.every().tokens[:1, :4])  # what the libraries load when they are first used
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = status("VmRSS")
    fit(view, task, lr=1e-5, device="cpu", progress=False, **TWO_STEPS.settings())
    return status("VmHWM") - before


def predicted(name):
    """The memory of training from counting, by its parts. Of view and base together, each weight counts once."""
    model = base("smollm2")
    view, batch = METHODS[name].attach(model), Reference().batch(TWO_STEPS.batch_size, torch.Generator())
    stored = {p.data_ptr(): p.numel() * p.element_size() for p in (*model.parameters(), *view.parameters())}
    counted, activations = costs.predict(view), costs.measure(view, batch).activations
    logits = 2 * batch.targets.numel() * model.config.vocab * 4
    return Memory(sum(stored.values()), counted.gradients, counted.optimizer, activations + logits)


def main():
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(json.dumps(measured(sys.argv[1])))
        return
    columns = "weights", "gradients", "moments", "activations", "predicted, MB", "measured, MB", "ratio"
    table, back = (
        Table("method", *columns),
        os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    for name in METHODS:
        parts = predicted(name)
        command = [sys.executable, "-m", "benchmarks.memory", name]
        grown = json.loads(subprocess.check_output(command, text=True, env=back))
        found = parts.weights + grown
        numbers = parts.weights, parts.gradients, parts.optimizer, parts.activations, parts.total, found
        table.add_row(name, *(f"{n / 1e6:,.0f}" for n in numbers), f"{found / parts.total:.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
