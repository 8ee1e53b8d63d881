"""The world of `pictures` for a ConvNet: the same characters to learn from, the same digits to be adapted to."""

from minipeft.models.torch_nets import ConvConfig
from minipeft.worlds.pictures import CHARACTERS, SIDE, pretraining, scores

__all__ = ["CONFIG", "RECIPE", "pretraining", "scores"]

CONFIG = ConvConfig(classes=len(CHARACTERS), side=SIDE)
RECIPE = {"steps": 2500, "batch_size": 64, "lr": 3e-3, "warmup": 0.1, "weight_decay": 0.0}
