"""What the methods cost here and in peft: a training step of each, beside the limit, and inference with LoRA.

    python -m benchmarks.steps                (needs requirements-parity.txt; about five minutes)
    python -m benchmarks.steps --models smollm2 --rounds 10     (and requirements-real.txt; about ten)

Every contender is a copy or a view of one model, ours for both libraries: a Transformer of width 64 or 768, or the real
language model. All have the same targets and rank, and one thread. They take turns, in a new order each round, so that
whatever else the machine does falls on all alike. Time is that of the CPU, and ratios are taken within a round. Printed
are medians, and the quartiles of the ratios in brackets.

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

from minipeft import bases
from minipeft.methods import IA3, AdaLoRA, DoRA, LoRA, PiSSA, VeRA
from minipeft.models.transformer import Config, Transformer
from minipeft.views import merge

VOCAB, RANK = 60, 4
SHAPES = {"64": (32, 16), "768": (8, 16), "smollm2": (4, 64)}  # model: rows, tokens


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
    warmup, times = min(5, rounds // 4 + 1), {name: [] for name in contenders}
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


def base_of(name):
    """The model of this name, frozen, and tokens for a step."""
    rows, length = SHAPES[name]
    if name == "smollm2":
        model = bases.base(name)
    else:
        dim = int(name)
        model = Transformer(Config(VOCAB, dim, 2, heads=4, ff=4 * dim)).requires_grad_(False)
    return model, torch.randint(model.config.vocab, (rows, length + 1))


def measure(name, targets, rounds):
    """Two tables for this model: training steps, and inference with LoRA."""
    base, tokens = base_of(name)
    steps = {"limit": training_step(Limit(copy.deepcopy(base)), tokens)}
    for method, (ours, theirs) in pairs(targets).items():
        steps[method] = training_step(ours.attach(base), tokens)
        steps[f"{method} peft"] = training_step(get_peft_model(copy.deepcopy(base), theirs), tokens)
    times = take_turns(steps, rounds)
    limit = times["limit"]
    rows, length = SHAPES[name]
    title = f"training step, {name}, {rows} × {length} tokens; the limit is {limit.median():.2f} ms"
    training = Table("method", "ours, ms", "peft, ms", "ours / peft", "ours / limit", title=title)
    for method in pairs(targets):
        ours, theirs = times[method], times[f"{method} peft"]
        cells = f"{ours.median():.2f}", f"{theirs.median():.2f}", of(ours, theirs), of(ours, limit)
        training.add_row(method, *cells)
    ours, config = pairs(targets)["LoRA"]
    view, theirs = ours.attach(base), get_peft_model(copy.deepcopy(base), config)
    models = {"base": base, "ours": view, "ours, merged": merge(view), "peft": theirs}
    models["peft, merged"] = copy.deepcopy(theirs).merge_and_unload()
    times = take_turns({which: inference(model, tokens) for which, model in models.items()}, rounds)
    running = Table("LoRA", "ms", "of the base", title=f"inference, {name}, {rows} × {length} tokens")
    for which, values in times.items():
        running.add_row(which, f"{values.median():.2f}", of(values, times["base"]))
    return training, running


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=["64", "768"])
    parser.add_argument("--targets", nargs="+", default=["q", "v"])
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    for name in args.models:
        for table in measure(name, tuple(args.targets), args.rounds):
            Console(width=120).print(table)


if __name__ == "__main__":
    main()
