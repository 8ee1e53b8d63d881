"""What an adapted model costs to run: one row at a time, as in table 1 of the LoRA paper, and rows of several tasks.

    python -m benchmarks.serving               (needs requirements-parity.txt; about three minutes)

Alone: a forward pass of one row of 128 tokens through a decoder of GPT-2's size (12 layers of width 768) under each
method, as a multiple of the bare model. The paper compares LoRA, merged, with two kinds of adapters, on a GPU.

Together: eight rows of 32 tokens, each under another LoRA. In one batch, `MultiTask` lets them share a pass; without it
each row has a pass of its own.

The contenders take turns, in a new order each round; ratios are taken within a round. CPU milliseconds, one thread.
"""

import argparse
import random

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.steps import of, take_turns
from minipeft import MultiTask, merge
from minipeft.methods import Houlsby, LoRA, ParallelAdapter, Pfeiffer, PrefixTuning, PromptTuning
from minipeft.models.transformer import Config, Transformer

SHAPE = Config(vocab=60, dim=768, layers=12, heads=12, ff=3072, context=192)
METHODS = {
    "LoRA, r 4, q and v": LoRA(rank=4),
    "adapters of Houlsby, 64": Houlsby(size=64, norms=False),
    "adapters of Pfeiffer, 64": Pfeiffer(size=64),
    "parallel adapters, 64": ParallelAdapter(size=64),
    "prompt of 16": PromptTuning(length=16),
    "prefix of 16": PrefixTuning(length=16),
}
TASKS = 8


def passed(model, *given):
    """A function that makes one forward pass."""
    model.eval()
    return torch.no_grad()(lambda: model(*given))


def table_of(title, contenders, rounds, yardstick):
    """Median times, and their ratios to the time of the yardstick."""
    times = take_turns(contenders, rounds)
    table = Table("", "ms", f"of {yardstick}", title=title)
    for name, values in times.items():
        table.add_row(name, f"{values.median():.1f}", of(values, times[yardstick]))
    return table


def alone(base, rounds):
    tokens = torch.randint(SHAPE.vocab, (1, 128))
    views = {name: method.attach(base) for name, method in METHODS.items()}
    models = {"the base": base, "LoRA, merged": merge(views["LoRA, r 4, q and v"])} | views
    passes = {name: passed(model, tokens) for name, model in models.items()}
    return table_of("one row of 128 tokens", passes, rounds, "the base")


def together(base, rounds):
    tokens = torch.randint(SHAPE.vocab, (TASKS, 32))
    views = {str(i): LoRA(rank=4).attach(base) for i in range(TASKS)}
    each = [passed(view, row[None]) for view, row in zip(views.values(), tokens, strict=True)]
    passes = {
        "the base, one batch": passed(base, tokens),
        "MultiTask, one batch": passed(MultiTask(views), tokens, list(views)),
        "a pass for each": lambda: [one() for one in each],
    }
    return table_of(f"{TASKS} rows of 32 tokens, each with a LoRA of its own", passes, rounds, "the base, one batch")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    base = Transformer(SHAPE).requires_grad_(False).eval()
    for table in (alone(base, args.rounds), together(base, args.rounds)):
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
