"""Makes the shipped base: pretrains it on the toy world and writes weights and card beside this script.

    python run.py pretrain          about five minutes on one core

The same seed and the same torch give the same scores; the last digits of the weights may differ between processors.
"""

import hashlib
import json
import platform
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from minipeft.tasks import BOS, HELD_OUT, VOCABULARY, Mixture
from minipeft.training import evaluate, fit
from minipeft.transformer import Config, Transformer

NAME, SEED = "letters-d64", 0
CONFIG = Config(vocab=len(VOCABULARY), dim=64, layers=2, heads=4, ff=256, context=24, bos=BOS)
RECIPE = {"steps": 4000, "lr": 2e-3, "batch_size": 128, "warmup": 200, "weight_decay": 0.1}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = Transformer(CONFIG)
    history = fit(model, Mixture(), seed=SEED, device="cpu", **RECIPE)
    path = Path(__file__).with_name(f"{NAME}.safetensors")
    save_file(model.state_dict(), path)
    card = {
        "name": NAME,
        "what": "pre-norm decoder, pretrained on instructed lines of the toy world (minipeft/tasks.py)",
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": asdict(CONFIG),
        "recipe": RECIPE | {"seed": SEED, "optimizer": "AdamW(0.9, 0.98)", "schedule": "warm-up, cosine to 2 %"},
        "held_out": HELD_OUT,
        "scores": {
            "pretraining mixture": round(evaluate(model, Mixture(), 4000).accuracy, 4),
            "held-out pairs, instructed": round(evaluate(model, Mixture(HELD_OUT), 4000).accuracy, 4),
        },
        "scores_are": "share of 4,000 fresh lines right from end to end",
        "seconds": round(history.seconds),
        "made_with": {"torch": torch.__version__.split("+")[0], "python": platform.python_version()},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card["scores"] | {"seconds": card["seconds"]}, indent=2))


if __name__ == "__main__":
    main()
