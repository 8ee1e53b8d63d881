"""minipeft: learn parameter-efficient fine-tuning by building it. The names most used, handed on from their rooms.

base_model = base()
adapted = LoRA(rank=4).attach(base_model)       # base_model is untouched, for good
fit(adapted, task("reverse+blue"), lr=3e-2)
save(adapted, "blue.safetensors")
adapted = load("blue.safetensors", base_model)
plain = merge(adapted)                          # holds nothing of the method
"""

from minipeft.attach import detach, trainable
from minipeft.bases import base
from minipeft.classroom import check, expect, quiz, use
from minipeft.deltas import DeltaError, fold, load, read, save
from minipeft.doctor import doctor
from minipeft.methods import (
    IA3,
    METHODS,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LinearProbe,
    LoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
    VeRA,
)
from minipeft.mixing import MultiTask
from minipeft.models.transformer import Config, Transformer, recording
from minipeft.tasks import Mixture, Task, Together, decode, encode, task
from minipeft.training import evaluate, fit
from minipeft.views import merge, move, summary

__all__ = [
    "IA3", "METHODS", "AdaLoRA", "AdapterFusion", "BitFit", "Config", "DeltaError", "DoRA", "Full", "Houlsby",
    "LinearProbe", "LoRA", "Mixture", "MultiTask", "PTuning", "PTuningV2", "ParallelAdapter", "Pfeiffer", "PiSSA",
    "PrefixTuning", "PromptTuning", "QLoRA", "Task", "Together", "Transformer", "VeRA", "base", "check", "decode",
    "detach", "doctor", "encode", "evaluate", "expect", "fit", "fold", "load", "merge", "move", "quiz", "read",
    "recording", "save", "summary", "task", "trainable", "use",
]  # fmt: skip
