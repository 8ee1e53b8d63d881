"""What LoRA costs here and in peft: one training step, and inference before and after merging, at several widths.

    python benchmarks/lora_step.py            (needs requirements-parity.txt)

Each contender is a copy of one model with the same targets and rank, on one thread. They take turns, in a new order
each round, so that whatever else the machine does falls on all alike. Time is that of the CPU, and ratios are taken
within a round. Printed are medians [quartiles].
"""

import argparse
import copy
import csv
import random
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table

from minipeft.attach import merge
from minipeft.methods.lora import LoRA
from minipeft.models.transformer import Config, Transformer

VOCAB, BATCH, TOKENS = 60, 32, 16


def take_turns(contenders, rounds):
    """CPU seconds of each contender in each round, {name: tensor (rounds,)}; the first rounds warm up."""
    warmup, times = 5, {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name in random.sample(list(contenders), len(contenders)):
            begun = time.process_time()
            contenders[name]()
            if turn >= warmup:
                times[name].append(time.process_time() - begun)
    return {name: torch.tensor(seconds) for name, seconds in times.items()}


def models(dim, rank, targets):
    """The bare base, ours and peft's: one Transformer of two layers, three times."""
    base = Transformer(Config(vocab=VOCAB, dim=dim, layers=2, heads=4, ff=4 * dim)).requires_grad_(False)
    ours = LoRA(rank=rank, alpha=2 * rank, targets=targets).attach(copy.deepcopy(base))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets))
    return base, ours, get_peft_model(copy.deepcopy(base), config)


def training_step(model, tokens):
    """A function that makes one step: forward, backward, AdamW on what is trainable."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def step():
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.train()
    return step


def inference(model, tokens):
    model.eval()
    return torch.no_grad()(lambda: model(tokens[:, :-1]))


def measure(dim, rank, targets, rounds):
    """Two races at this width: {"training step": times of each contender, "inference": ...}."""
    tokens = torch.randint(VOCAB, (BATCH, TOKENS + 1))
    _, ours, theirs = models(dim, rank, targets)
    training = {"ours": training_step(ours, tokens), "peft": training_step(theirs, tokens)}
    base, ours, theirs = models(dim, rank, targets)
    contenders = {
        "base": base,
        "ours": ours,
        "ours, merged": merge(copy.deepcopy(ours)),
        "peft": theirs,
        "peft, merged": copy.deepcopy(theirs).merge_and_unload(),
    }
    running = {name: inference(model, tokens) for name, model in contenders.items()}
    return {"training step": take_turns(training, rounds), "inference": take_turns(running, rounds)}


def quartiles(values):
    return torch.quantile(values, torch.tensor([0.25, 0.5, 0.75])).tolist()


def rows(dim, races):
    """One row for each contender: its milliseconds, and its ratio to the yardstick of its race, round by round."""
    for race, yardstick in (("training step", "peft"), ("inference", "base")):
        for name, seconds in races[race].items():
            low, middle, high = quartiles(1e3 * seconds)
            least, ratio, most = quartiles(seconds / races[race][yardstick])
            yield {
                "d": dim,
                "race": race,
                "contender": name,
                "ms": f"{middle:.2f} [{low:.2f}, {high:.2f}]",
                "against": yardstick,
                "ratio": f"{ratio:.3f} [{least:.3f}, {most:.3f}]",
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--targets", nargs="+", default=["q", "v"])
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--csv", help="write the rows to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    found = [row for dim in args.widths for row in rows(dim, measure(dim, args.rank, tuple(args.targets), args.rounds))]
    table = Table(title=f"LoRA, rank {args.rank}, on {' '.join(args.targets)}; {BATCH} × {TOKENS} tokens, one thread")
    for column in found[0]:
        table.add_column(column, justify="right" if column in ("d", "ms", "ratio") else "left")
    for before, row in zip([None, *found], found, strict=False):
        if before and (before["d"], before["race"]) != (row["d"], row["race"]):
            table.add_section()
        table.add_row(*map(str, row.values()))
    Console().print(table)
    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
