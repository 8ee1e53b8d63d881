"""What the checks of a model look at: the model, its optimizer, and what a few trial steps showed."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from minipeft.attach import attachments, trainable
from minipeft.doctor.adapters import PARTS, pairs
from minipeft.doctor.findings import counted
from minipeft.doctor.trial import Trial


@dataclass
class Patient:
    """A model under examination.

    optimizer: None if none was given. trial: None if no loss was given, or nothing is trained. targets: the names that
    should be adapted. to_be_trained: is it meant to be trained now? An adapter loaded for inference is frozen and well.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    trial: Trial | None = None
    targets: tuple[str, ...] = ()
    to_be_trained: bool = False

    @cached_property
    def trained(self):
        """{dotted name: parameter} of what requires a gradient."""
        return trainable(self.model)

    @cached_property
    def parameters(self):
        return dict(self.model.named_parameters())

    @cached_property
    def pairs(self):
        """The low-rank pairs of the model."""
        return pairs(self.parameters, self.model)

    @cached_property
    def configs(self):
        """{adapter name: configuration} of a model of peft, or of transformers with peft's adapters; {} of another."""
        configs = getattr(self.model, "peft_config", None)
        return configs if isinstance(configs, dict) else {}

    @property
    def sparing(self):
        """Is less than half of the model trained, as fine-tuning with few parameters would have it?"""
        few, many = (sum(p.numel() for p in ps.values()) for ps in (self.trained, self.parameters))
        return 2 * few < many

    @cached_property
    def paths(self):
        """{dotted name of a module as the base has it: module}."""
        return {clean(path): module for path, module in self.model.named_modules() if path}

    @cached_property
    def inserted(self):
        """The names of the parameters that a method put there; they are what a checkpoint of it holds."""
        if attachments(self.model):
            layers = [layer for entry in attachments(self.model) for layer in entry.layers.values()]
            ours = {id(p) for layer in layers for p in ([layer] if isinstance(layer, nn.Parameter) else own(layer))}
            return {name for name, p in self.parameters.items() if id(p) in ours}
        if self.configs:
            biased = any(getattr(config, "bias", "none") not in ("none", False) for config in self.configs.values())
            return {
                name for name in self.parameters
                if self.configs.keys() & {*name.split(".")} or (biased and name.endswith(".bias"))
            }  # fmt: skip
        return {name for name in self.parameters if PARTS & {*name.split(".")}}

    def about(self):
        """One line: `LlamaForCausalLM: 460,800 of 134,975,808 parameters are trained (0.34 %), 60 low-rank pairs`."""
        few, many = (sum(p.numel() for p in ps.values()) for ps in (self.trained, self.parameters))
        share = f" ({100 * few / many:.2f} %)" if many else ""
        found = f", {counted(len(self.pairs), 'low-rank pair')}" if self.pairs else ""
        return f"{type(self.model).__name__}: {few:,} of {many:,} parameters are trained{share}{found}"


def own(layer):
    """The parameters of a layer that a method put there, without those of what it wraps."""
    return [p for name, p in layer.named_parameters() if not name.startswith("base.")]


def clean(path):
    """A dotted name without what peft and its layers put into it."""
    path = path.removeprefix("base_model.model.")
    return ".".join(part for part in path.split(".") if part not in ("base_layer", "original_module"))
