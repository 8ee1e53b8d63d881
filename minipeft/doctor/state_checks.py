"""Checks of the state in which a model is: modes, running statistics, tied weights, gradient checkpointing."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from minipeft.attach import attachments
from minipeft.checks import tied
from minipeft.doctor.findings import Finding, count, counted


def dropout_fits_the_mode(patient):
    """In eval mode, every dropout is off."""
    on = [n for n, m in patient.model.named_modules()
          if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 and m.training]  # fmt: skip
    if on and not patient.model.training:
        yield Finding(
            "warning",
            f"The model is in eval mode, but {count(on, 'dropout in it is', 'dropouts in it are')} active.",
            "Answers are random then. A module that was inserted after model.eval() is in training mode.",
            "Call model.eval() once more, after everything is attached or loaded.",
            tuple(on),
        )


def statistics_stand_still(patient):
    """The running statistics of frozen normalisation layers stand still."""
    if attachments(patient.model) or not patient.trained:  # our checkpoints hold statistics that have moved
        return
    moving = [
        name for name, m in patient.model.named_modules()
        if isinstance(m, _NormBase) and m.training and m.track_running_stats and m.running_mean is not None
        and not any(p.requires_grad for p in m.parameters())
    ]  # fmt: skip
    if moving:
        yield Finding(
            "warning",
            f"The running statistics of {counted(len(moving), 'frozen normalisation layer')} move in training mode.",
            "They are buffers, not parameters: freezing does not stop them. A checkpoint of the adapter does not hold "
            "them, so the loaded model computes something else.",
            "Put these layers into eval mode after every model.train(), or save their buffers too.",
            tuple(moving),
        )


def ties_hold(patient):
    """Weights that are tied are adapted together."""
    for names in tied(patient.model):
        below = {name for name in names if {"base_layer", "original_module", "base"} & {*name.split(".")}}
        if below and names - below:
            yield Finding(
                "warning",
                f"{' and '.join(sorted(names))} are one weight, but only one of its places is adapted.",
                "The other place goes on with the old numbers, and merging unties the two.",
                "Adapt both places or neither; in peft there is ensure_weight_tying.",
                tuple(sorted(below)),
            )


def checkpointing_lets_gradients_through(patient):
    """Gradient checkpointing lets gradients through."""
    blocks = [name for name, m in patient.model.named_modules() if reentrant(m)]
    embeddings = getattr(patient.model, "get_input_embeddings", lambda: None)()
    if not blocks or not patient.trained or embeddings is None:
        return
    if not embeddings._forward_hooks and not any(p.requires_grad for p in embeddings.parameters()):
        yield Finding(
            "error",
            f"{count(blocks, 'module is', 'modules are')} checkpointed re-entrantly, behind a frozen embedding.",
            "Re-entrant checkpointing sends gradients back only if an input of the block requires one. None does, so "
            "no adapter in these blocks gets a gradient.",
            "Call model.enable_input_require_grads(), or checkpoint with use_reentrant=False.",
            tuple(blocks),
        )


def reentrant(module):
    """Is this a module of transformers that checkpoints in the way of before PyTorch 2?"""
    function = getattr(module, "_gradient_checkpointing_func", None)
    settings = getattr(function, "keywords", {}) or {}
    return vars(module).get("gradient_checkpointing") is True and settings.get("use_reentrant") is True


CHECKS = (dropout_fits_the_mode, statistics_stand_still, ties_hold, checkpointing_lets_gradients_through)
