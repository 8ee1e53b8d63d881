"""Does AdaLoRA put its ranks where they are needed? Three of twelve matrices are changed, by ranks 8, 4 and 4.

    python benchmarks/adalora_planted.py            (about five minutes on one core)

The teacher is the shipped base with random changes planted in it; the student is the base with a method on it, and
learns the teacher's logits. 16 triplets in the right places are enough; with 12 something is left out. Beside AdaLoRA
stand a LoRA that spreads the same budget over all twelve matrices, and one that is told where to put it.

Reported is the squared error on unseen examples as a share of the bare base's. Each seed draws a teacher, a student and
the data; learning rates are chosen by the error on a teacher that is not reported.
"""

import argparse
import json
import platform
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn
from tqdm import tqdm

from minipeft import AdaLoRA, LoRA, Mixture, base, trainable
from minipeft.methods.adalora import ranks
from minipeft.training import TEST, schedule

PLANTED = {  # rank, and size against what the matrix puts out: chosen so that a triplet moves the logits alike in each
    "blocks.1.attn.v": (8, 0.7),
    "blocks.1.attn.q": (4, 1.5),
    "blocks.0.mlp.down": (4, 0.3),
}
ALL = ("q", "k", "v", "o", "up", "down")
TUNED_METHODS = {
    "LoRA, spread, budget 12": LoRA(rank=1, targets=ALL),
    "AdaLoRA, budget 12": AdaLoRA(rank=1, initial_rank=8, targets=ALL),
    "LoRA, spread, budget 16": LoRA(rank=1, targets=ALL, rank_pattern={"q": 2, "v": 2}),
    "AdaLoRA, budget 16": AdaLoRA(rank=16 / 12, initial_rank=8, targets=ALL),
    "LoRA, told where, budget 16": LoRA(rank=4, targets=tuple(PLANTED), rank_pattern={"blocks.1.attn.v": 8}),
}
LEARNING_RATES, CHOOSING, SEEDS = (1e-2, 3e-2, 1e-1), 100, (0, 1, 2)


@torch.no_grad()
def plant(seed, planted=PLANTED):
    """A teacher, changed where `planted` says, {path: (rank, size)}. The directions in are those along which the inputs
    of a matrix vary most, whitened; out, random."""
    teacher, inputs = base(), {}
    hooks = [
        teacher.get_submodule(path).register_forward_pre_hook(lambda _, x, path=path: inputs.update({path: x[0]}))
        for path in planted
    ]
    generator = torch.Generator().manual_seed(seed)
    teacher(Mixture().batch(256, generator).tokens)
    for hook in hooks:
        hook.remove()
    for path, (rank, size) in planted.items():
        W, x = teacher.get_submodule(path).weight, inputs[path].flatten(0, 1)
        _, spread, V = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        out = torch.linalg.qr(torch.randn(len(W), rank, generator=generator))[0]
        change = out @ (V[:rank] / spread[:rank, None])
        W += change * size * (x @ W.T).norm() / (x @ change.T).norm()
    return teacher


def train(method, lr, seed, steps, planted=PLANTED):
    """The share of the error that is left, how many numbers were trained, and the ranks that were chosen."""
    teacher, student = plant(seed, planted), base()
    fresh = Mixture().batch(500, torch.Generator().manual_seed(TEST)).tokens

    @torch.no_grad()
    def left():
        return F.mse_loss(student(fresh), teacher(fresh)).item()

    whole = left()
    torch.manual_seed(seed)
    student = method.attach(student)
    groups = method.groups(student, lr)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, steps // 10))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        tokens = Mixture().batch(32, generator).tokens
        with torch.no_grad():
            wanted = teacher(tokens)
        loss = F.mse_loss(student(tokens), wanted) / whole
        optimizer.zero_grad()
        (loss + method.regularizer(student)).backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        method.after_step(student, step, steps)
        scheduler.step()
    trained = sum(p.numel() for p in trainable(student).values())
    return {"error": left() / whole, "trained": trained, "ranks": {path: r for path, r in ranks(student).items() if r}}


def table(found):
    show = Table(title="Squared error left, as a share of the bare base's; planted are 8, 4 and 4")
    for column in ("method", "lr", "trained", "seed", "error", *PLANTED, "elsewhere"):
        show.add_column(column, justify="left" if column == "method" else "right")
    for name, entry in found.items():
        for seed, run in entry["runs"].items():
            chosen = run["ranks"]
            there = [chosen.get(path, 0) for path in PLANTED]
            places = [*there, sum(chosen.values()) - sum(there)] if chosen else [""] * (len(PLANTED) + 1)
            cells = (name, f"{entry['lr']:g}", f"{run['trained']:,}", seed, f"{run['error']:.4f}", *places)
            show.add_row(*map(str, cells))
        show.add_section()
    return show


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: {"method": str(method), "learning_rates": {}, "runs": {}} for name, method in TUNED_METHODS.items()}
    with tqdm(total=len(TUNED_METHODS) * (len(LEARNING_RATES) + len(SEEDS)), leave=False) as bar:
        for name, lr in product(TUNED_METHODS, LEARNING_RATES):
            bar.set_description(f"{name}, learning rate {lr:g}")
            found[name]["learning_rates"][f"{lr:g}"] = train(TUNED_METHODS[name], lr, CHOOSING, args.steps)["error"]
            bar.update()
        for name, seed in product(TUNED_METHODS, SEEDS):
            tried = found[name]["learning_rates"]
            lr = found[name]["lr"] = float(min(tried, key=tried.get))
            bar.set_description(f"{name}, seed {seed}")
            found[name]["runs"][str(seed)] = train(TUNED_METHODS[name], lr, seed, args.steps)
            bar.update()
    Console(width=140).print(table(found))
    about = {
        "steps": args.steps,
        "seeds": SEEDS,
        "learning_rates_chosen_on_seed": CHOOSING,
        "planted": PLANTED,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    args.out.write_text(json.dumps(about | {"found": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
