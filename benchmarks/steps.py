"""What the methods cost here and in peft: a training step of each, beside the limit, and inference with LoRA.

    python benchmarks/steps.py                 (needs requirements-parity.txt; about five minutes)

Every contender is a copy or a view of one model, our Transformer, with the same targets and rank, on one thread. They
take turns, in a new order each round, so that whatever else the machine does falls on all alike. Time is that of the
CPU, and ratios are taken within a round. Printed are medians, and the quartiles of the ratios in brackets.

The limit is what no method can go below: the frozen forward pass, and the gradient back to the first layer's q.
"""

import argparse
import copy
import random
import time

import torch
import torch.nn.functional as F
from peft import AdaLoraConfig, IA3Config, LoraConfig, VeraConfig, get_peft_model
from rich.console import Console
from rich.table import Table

from minipeft.methods import IA3, AdaLoRA, DoRA, LoRA, PiSSA, VeRA
from minipeft.models.transformer import Config, Transformer
from minipeft.views import merge

VOCAB, RANK = 60, 4
SHAPES = {64: (32, 16, 2), 768: (8, 16, 2)}  # width: rows, tokens, layers


def pairs(targets):
    """{name: (ours, peft's configuration)}"""
    names = {"target_modules": list(targets)}
    return {
        "LoRA": (LoRA(RANK, 2 * RANK, targets), LoraConfig(r=RANK, lora_alpha=2 * RANK, **names)),
        "DoRA": (DoRA(RANK, 2 * RANK, targets), LoraConfig(r=RANK, lora_alpha=2 * RANK, use_dora=True, **names)),
        "VeRA": (VeRA(64, targets), VeraConfig(r=64, projection_prng_key=0, **names)),
        "PiSSA": (PiSSA(RANK, targets), LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="pissa", **names)),
        "AdaLoRA": (
            AdaLoRA(RANK / 2, RANK, targets),
            AdaLoraConfig(init_r=RANK, target_r=RANK // 2, total_step=10**6, **names),
        ),
        "IA3": (IA3(), IA3Config(target_modules=["k", "v", "down"], feedforward_modules=["down"])),
    }


class Limit(torch.nn.Module):
    """A model with one trained number, added to the queries of the first layer."""

    def __init__(self, model):
        super().__init__()
        self.model, self.zero = model, torch.nn.Parameter(torch.zeros(1))
        model.blocks[0].attn.q.register_forward_hook(lambda module, args, q: q + self.zero)

    def forward(self, tokens):
        return self.model(tokens)


def take_turns(contenders, rounds):
    """CPU milliseconds of each contender in each round, {name: tensor (rounds,)}; the first rounds warm up."""
    warmup, times = 5, {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name in random.sample(list(contenders), len(contenders)):
            begun = time.process_time()
            contenders[name]()
            if turn >= warmup:
                times[name].append(1e3 * (time.process_time() - begun))
    return {name: torch.tensor(values) for name, values in times.items()}


def training_step(model, tokens):
    """A function that makes one step: forward, backward, AdamW on what is trainable."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.train()

    def step():
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inference(model, tokens):
    model.eval()
    return torch.no_grad()(lambda: model(tokens[:, :-1]))


def of(values, yardstick):
    """The median ratio and its quartiles, "0.950 [0.941, 0.962]"."""
    low, middle, high = torch.quantile(values / yardstick, torch.tensor([0.25, 0.5, 0.75])).tolist()
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def measure(dim, targets, rounds):
    """Two tables for this width: training steps, and inference with LoRA."""
    rows, length, layers = SHAPES.get(dim, (16, 16, 2))
    tokens = torch.randint(VOCAB, (rows, length + 1))
    base = Transformer(Config(VOCAB, dim, layers, heads=4, ff=4 * dim)).requires_grad_(False)
    steps = {"limit": training_step(Limit(copy.deepcopy(base)), tokens)}
    for name, (ours, theirs) in pairs(targets).items():
        steps[name] = training_step(ours.attach(base), tokens)
        steps[f"{name} peft"] = training_step(get_peft_model(copy.deepcopy(base), theirs), tokens)
    times = take_turns(steps, rounds)
    limit = times["limit"]
    title = f"training step, d = {dim}, {rows} × {length} tokens, {layers} layers; the limit is {limit.median():.2f} ms"
    training = Table("method", "ours, ms", "peft, ms", "ours / peft", "ours / limit", title=title)
    for name in pairs(targets):
        ours, theirs = times[name], times[f"{name} peft"]
        cells = f"{ours.median():.2f}", f"{theirs.median():.2f}", of(ours, theirs), of(ours, limit)
        training.add_row(name, *cells)
    ours, config = pairs(targets)["LoRA"]
    view, theirs = ours.attach(base), get_peft_model(copy.deepcopy(base), config)
    models = {"base": base, "ours": view, "ours, merged": merge(view), "peft": theirs}
    models["peft, merged"] = copy.deepcopy(theirs).merge_and_unload()
    times = take_turns({name: inference(model, tokens) for name, model in models.items()}, rounds)
    running = Table("LoRA", "ms", "of the base", title=f"inference, d = {dim}, {rows} × {length} tokens")
    for name, values in times.items():
        running.add_row(name, f"{values.median():.2f}", of(values, times["base"]))
    return training, running


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=list(SHAPES))
    parser.add_argument("--targets", nargs="+", default=["q", "v"])
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    for dim in args.widths:
        for table in measure(dim, tuple(args.targets), args.rounds):
            Console(width=120).print(table)


if __name__ == "__main__":
    main()
