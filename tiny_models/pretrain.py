"""Makes the shipped bases: pretrains them on their world and writes weights and card beside this script.

    python run.py pretrain                          letters-d64, which most lessons use; five minutes on one core
    python run.py pretrain characters ...           that of another world; `worlds` stands for all, ten minutes
    python run.py pretrain letters-d32-1 ...        those of the ladder; `ladder` stands for all twelve, about an hour

The ladder has four widths and three seeds of each: letters-d48 is the first of width 48, then letters-d48-1 and -2. All
know the mixture. A narrower one needs more steps for it, and a higher learning rate.

The same seed and the same torch give the same scores; the last digits of the weights may differ between processors.
"""

import hashlib
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_model

from minipeft.bases import MODELS
from minipeft.models.dual_encoder import Contrastive
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import BOS, HELD_OUT, VOCABULARY, Mixture
from minipeft.training import evaluate, fit
from minipeft.worlds import convolutions, memory, pairs, pictures, scenes

RECIPES = {  # by width
    32: {"steps": 12_000, "lr": 5e-3},
    48: {"steps": 6_000, "lr": 3e-3},
    64: {"steps": 4_000, "lr": 2e-3},
    96: {"steps": 4_000, "lr": 1.5e-3},
}
SHARED = {"batch_size": 128, "warmup": 200, "weight_decay": 0.1}
LADDER = {f"letters-d{width}" + (f"-{seed}" if seed else ""): (width, seed) for width in RECIPES for seed in range(3)}


WORLDS = {  # what it is, the kind of model, the module with CONFIG, RECIPE, pretraining and scores
    "characters": ("ViT, pretrained on printed characters (minipeft/worlds/pictures.py)", "ViT", pictures),
    "characters-conv": ("convolutional network, pretrained on the same (convolutions.py)", "ConvNet", convolutions),
    "scenes": ("dual encoder, pretrained on pictures and captions (scenes.py)", "DualEncoder", scenes),
    "letters-pairs": ("encoder-decoder, pretrained on instructed pairs (pairs.py)", "EncoderDecoder", pairs),
    "letters-lstm": ("LSTM, pretrained on instructed sums (memory.py)", "Recurrent", memory),
}


def config(width):
    return Config(vocab=len(VOCABULARY), dim=width, layers=2, heads=4, ff=4 * width, context=24, bos=BOS)


def main(*names):
    torch.set_num_threads(1)
    several = {"ladder": tuple(LADDER), "worlds": tuple(WORLDS), "": ("letters-d64",)}
    for name in several.get(" ".join(names), names):
        if name not in LADDER | WORLDS:
            sys.exit(f"there is no {name!r}; there are: ladder, worlds, {', '.join(LADDER | WORLDS)}")
        (letters if name in LADDER else another_world)(name)


def letters(name):
    width, seed = LADDER[name]
    torch.manual_seed(seed)
    model = Transformer(config(width))
    recipe = RECIPES[width] | SHARED
    history = fit(model, Mixture(), seed=seed, device="cpu", **recipe | {"warmup": recipe["warmup"] / recipe["steps"]})
    about = {
        "what": "pre-norm decoder, pretrained on instructed examples of the toy world (minipeft/tasks.py)",
        "config": asdict(config(width)),
        "recipe": recipe | {"seed": seed},
        "held_out": HELD_OUT,
        "scores": {
            "pretraining mixture": evaluate(model, Mixture(), 4000).accuracy,
            "held-out pairs, instructed": evaluate(model, Mixture(HELD_OUT), 4000).accuracy,
        },
        "scores_are": "exact-match accuracy on 4,000 unseen examples",
    }
    ship(name, model, about, round(history.seconds))


def another_world(name):
    """The base of another world, as its module says."""
    what, kind, world = WORLDS[name]
    make, _ = MODELS[kind]
    torch.manual_seed(0)
    model = make(world.CONFIG)
    asked = Contrastive(model) if kind == "DualEncoder" else model  # what the pretraining task is put to
    begun = time.process_time()
    fit(asked, world.pretraining, device="cpu", **world.RECIPE)
    seconds = round(time.process_time() - begun)  # of a processor: what else runs on the machine does not count
    about = {
        "what": what,
        "model": kind,
        "config": asdict(world.CONFIG),
        "recipe": world.RECIPE | {"seed": 0},
        "scores": world.scores(model),
        "scores_are": "accuracy on unseen examples",
    }
    ship(name, model, about, seconds)


def ship(name, model, about, seconds):
    """Write weights and card."""
    path = Path(__file__).with_name(f"{name}.safetensors")
    save_model(model, path)
    about["recipe"] |= {"optimizer": "AdamW(0.9, 0.98)", "schedule": "warm-up, cosine to 2 %"}
    about["scores"] = {score: round(value, 4) for score, value in about["scores"].items()}
    card = {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        **about,
        "seconds": seconds,
        "made_with": {"torch": torch.__version__.split("+")[0], "python": platform.python_version()},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps({"name": name} | card["scores"] | {"seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
