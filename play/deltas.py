"""Trains the four adapters that the playground comes with, into play/shipped (half a minute):  python play/deltas.py"""

from pathlib import Path

import torch

from minipeft import arithmetic, deltas
from minipeft.bases import base
from minipeft.lab import adapt
from minipeft.methods import LoRA, PromptTuning
from minipeft.tasks import task
from minipeft.training import Recipe, evaluate

FOLDER = Path(__file__).parent / "shipped"
SIX = ("q", "k", "v", "o", "up", "down")
SHORT = Recipe(steps=200)  # as the ledger's sums are trained: shorter trainings add up better
ADAPTERS = {
    "prompt-blue": (PromptTuning(length=4), "reverse+blue", 0.1, Recipe()),
    "lora-violet": (LoRA(rank=8, alpha=16), "reverse+violet", 0.03, Recipe()),
    "lora-reverse": (LoRA(rank=4, targets=SIX), "reverse+plain", 0.01, SHORT),
    "lora-blue": (LoRA(rank=4, targets=SIX), "copy+blue", 0.01, SHORT),
}


def main():
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name, (method, goal, lr, recipe) in ADAPTERS.items():
        view, _ = adapt(method, task(goal), lr, 0, recipe)
        score = evaluate(view, task(goal)).accuracy
        size = deltas.save(view, FOLDER / f"{name}.safetensors", {"task": goal, "accuracy": score})
        print(f"{name:13} {method} on {goal}: {score:.1%} of 1,000 unseen examples, {size:,} bytes")
    model, two = base(), [deltas.read(FOLDER / f"{name}.safetensors") for name in ("lora-reverse", "lora-blue")]
    both = deltas.load(arithmetic.add(model, two, [1, 1]), model)
    print(f"the sum of the last two on reverse+blue: {evaluate(both, task('reverse+blue')).accuracy:.1%}")


if __name__ == "__main__":
    main()
