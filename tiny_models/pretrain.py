"""Makes the shipped bases: pretrains them on the toy world and writes weights and card beside this script.

    python run.py pretrain                          letters-d64, which all lessons use; five minutes on one core
    python run.py pretrain letters-d32-1 ...        those of the ladder; `ladder` stands for all twelve, about an hour

The ladder has four widths and three seeds of each: letters-d48 is the first of width 48, then letters-d48-1 and -2. All
know the mixture. A narrower one needs more steps for it, and a higher learning rate.

The same seed and the same torch give the same scores; the last digits of the weights may differ between processors.
"""

import hashlib
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import BOS, HELD_OUT, VOCABULARY, Mixture
from minipeft.training import evaluate, fit

RECIPES = {  # by width
    32: {"steps": 12_000, "lr": 5e-3},
    48: {"steps": 6_000, "lr": 3e-3},
    64: {"steps": 4_000, "lr": 2e-3},
    96: {"steps": 4_000, "lr": 1.5e-3},
}
SHARED = {"batch_size": 128, "warmup": 200, "weight_decay": 0.1}
LADDER = {f"letters-d{width}" + (f"-{seed}" if seed else ""): (width, seed) for width in RECIPES for seed in range(3)}


def config(width):
    return Config(vocab=len(VOCABULARY), dim=width, layers=2, heads=4, ff=4 * width, context=24, bos=BOS)


def main(*names):
    torch.set_num_threads(1)
    for name in LADDER if names == ("ladder",) else names or ("letters-d64",):
        if name not in LADDER:
            sys.exit(f"there is no {name!r}; there are: ladder, {', '.join(LADDER)}")
        width, seed = LADDER[name]
        torch.manual_seed(seed)
        model = Transformer(config(width))
        recipe = RECIPES[width] | SHARED
        recipe["warmup"] /= recipe["steps"]
        history = fit(model, Mixture(), seed=seed, device="cpu", **recipe)
        ship(name, model, round(history.seconds))


def ship(name, model, seconds):
    """Write weights and card."""
    width, seed = LADDER[name]
    path = Path(__file__).with_name(f"{name}.safetensors")
    save_file(model.state_dict(), path)
    recipe = RECIPES[width] | SHARED | {"seed": seed}
    card = {
        "name": name,
        "what": "pre-norm decoder, pretrained on instructed examples of the toy world (minipeft/tasks.py)",
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": asdict(config(width)),
        "recipe": recipe | {"optimizer": "AdamW(0.9, 0.98)", "schedule": "warm-up, cosine to 2 %"},
        "held_out": HELD_OUT,
        "scores": {
            "pretraining mixture": round(evaluate(model, Mixture(), 4000).accuracy, 4),
            "held-out pairs, instructed": round(evaluate(model, Mixture(HELD_OUT), 4000).accuracy, 4),
        },
        "scores_are": "exact-match accuracy on 4,000 unseen examples",
        "seconds": seconds,
        "made_with": {"torch": torch.__version__.split("+")[0], "python": platform.python_version()},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps({"name": name} | card["scores"] | {"seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
