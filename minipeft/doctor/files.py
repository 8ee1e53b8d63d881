"""What is examined on disk: a folder as peft writes it, one of our deltas, or low-rank pairs in safetensors."""

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minipeft.attach import Method
from minipeft.deltas import DeltaError, read
from minipeft.doctor.adapters import PARTS, Pair, fits_pattern, pairs
from minipeft.doctor.findings import counted

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # of every name that peft stores, but those of prompts


@dataclass
class Stored:
    """What is at a path.

    tensors: {name: tensor}. config: that of a folder of peft. method: that of one of our deltas. unreadable: what could
    not be read, and why; "" if nothing is wrong.
    """

    path: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    method: Method | None = None
    unreadable: str = ""

    @property
    def kind(self):
        """The method: "LORA", "PREFIX_TUNING" of peft, "LoRA" of ours; "" if nothing tells."""
        return type(self.method).__name__ if self.method else str(self.config.get("peft_type") or "").upper()

    @cached_property
    def pairs(self):
        return [StoredPair(**vars(pair), stored=self) for pair in pairs(self.tensors)]

    @cached_property
    def paths(self):
        """The dotted names of the modules that have tensors here, as the base has them."""
        return list(dict.fromkeys(module_of(name) for name in self.tensors))

    def about(self):
        numbers = sum(t.numel() for t in self.tensors.values())
        kind = f"{self.kind or 'an adapter of unknown kind'}, "
        return f"{self.path}: {kind}{counted(len(self.tensors), 'tensor')} with {counted(numbers, 'number')}"


@dataclass
class StoredPair(Pair):
    """A pair in a file, whose α and scale are what the configuration says."""

    stored: Stored | None = None

    @property
    def alpha(self):
        if self.stored.method:
            return getattr(self.stored.method, "alpha", None)
        return setting(self.stored.config, "lora_alpha", "alpha_pattern", module_of(self.names[0]))

    @property
    def scale(self):
        method, squeezed = self.stored.method, self.stored.config.get("use_rslora")
        if callable(getattr(method, "scale", None)):
            return method.scale(self.rank)
        if self.alpha is None or self.stored.kind == "ADALORA":
            return None
        return self.alpha / (math.sqrt(self.rank) if squeezed else self.rank)


def setting(config, name, pattern, path):
    """What a configuration says for the module at this path: the first key of the pattern that fits counts, in peft."""
    patterns = config.get(pattern) if isinstance(config.get(pattern), dict) else {}
    value = next((value for key, value in patterns.items() if fits_pattern(key, path)), config.get(name))
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def module_of(name):
    """The module that a stored tensor belongs to: "h.0.attn" of "base_model.model.h.0.attn.lora_A.weight"."""
    parts = name.removeprefix(PREFIX).split(".")
    end = next((i for i, part in enumerate(parts) if part in PARTS or part.startswith(MARKS)), -1)
    return ".".join(parts[:end])


MARKS = ("lora_", "ia3_", "vera_")


def stored(path):
    """What is at this path. Raises ValueError, with what would do, if it is no adapter."""
    path = Path(path)
    if path.is_dir():
        return folder(path)
    if path.name in (CONFIG, WEIGHTS) and (path.parent / CONFIG).is_file():
        return folder(path.parent)
    if not path.is_file() or path.suffix != ".safetensors":
        state = "cannot be examined" if path.exists() else "does not exist"
        raise ValueError(
            f"{path} {state}. What can be examined: a Python file that defines `model`, a folder with {CONFIG} and "
            f"{WEIGHTS}, or a .safetensors file with an adapter"
        )
    found = Stored(path)
    if fill(found, path).get("format", "").startswith("minipeft delta"):
        try:
            found.method = read(path).method
        except DeltaError as error:
            found.unreadable = str(error)
    elif not found.unreadable and not found.pairs:
        raise ValueError(
            f"{path} holds no adapter: it is a safetensors file, but no delta that minipeft saved, and no name in it "
            "ends in lora_A and lora_B. To examine a model, name a Python file that defines `model`"
        )
    return found


def folder(path):
    """A folder as peft's save_pretrained writes it. Raises ValueError if it holds nothing of the kind."""
    there = {name for name in (CONFIG, WEIGHTS, PICKLE) if (path / name).is_file()}
    if not there:
        raise ValueError(f"the folder {path} holds no adapter: there is neither {CONFIG} nor {WEIGHTS} in it")
    found = Stored(path)
    if WEIGHTS in there:
        fill(found, path / WEIGHTS)
    elif PICKLE in there:
        try:
            found.tensors = torch.load(path / PICKLE, map_location="cpu", weights_only=True)  # runs nothing
        except Exception as error:
            found.unreadable = f"{PICKLE} holds more than tensors, or is damaged ({type(error).__name__})"
    else:
        found.unreadable = f"{WEIGHTS} is missing"
    try:
        found.config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(found.config, dict):
            raise ValueError("it is no dictionary")
    except FileNotFoundError:
        found.unreadable = f"{CONFIG} is missing"
    except ValueError as error:
        found.config, found.unreadable = {}, f"{CONFIG} is damaged ({error})"
    return found


def fill(found, path):
    """Read the tensors of a file. Returns its metadata."""
    try:
        with safe_open(path, "pt") as file:
            found.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}
    except SafetensorError as error:
        found.unreadable = f"{path.name} is not a whole safetensors file ({error})"
        return {}
