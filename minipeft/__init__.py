"""minipeft: learn parameter-efficient fine-tuning by building it. The names most used, handed on from their rooms.

model = base()
LoRA(rank=4).attach(model)
fit(model, task("reverse+blue"), steps=400, lr=1e-2)
save(model, "reverse.safetensors")
detach(model)
"""

from minipeft.bases import base
from minipeft.deltas import DeltaError, fold, load, save
from minipeft.methods import METHODS, Full, LoRA, PrefixTuning, PromptTuning, PTuning, PTuningV2, QLoRA
from minipeft.mixing import MultiTask
from minipeft.tasks import Mixture, Task, decode, encode, task
from minipeft.training import evaluate, fit
from minipeft.transformer import Config, Transformer, recording
from minipeft.wrapping import detach, disabled, merge, summary, trainable, unmerge

__all__ = [
    "METHODS", "Config", "DeltaError", "Full", "LoRA", "Mixture", "MultiTask", "PTuning", "PTuningV2", "PrefixTuning",
    "PromptTuning", "QLoRA", "Task", "Transformer", "base", "decode", "detach", "disabled", "encode", "evaluate", "fit",
    "fold", "load", "merge", "recording", "save", "summary", "task", "trainable", "unmerge",
]  # fmt: skip
