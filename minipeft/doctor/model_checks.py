"""Checks of the parameters of a model: which of them are trained and saved, and what numbers they hold.

A check yields Findings; its docstring says what a healthy model has. Each tells only what it can be sure of: what might
be meant (full fine-tuning, an adapter loaded for inference) is a note at most.
"""

import math

import torch
from torch import nn

from minipeft.attach import attachments
from minipeft.checks import not_finite
from minipeft.doctor.adapters import PARTS
from minipeft.doctor.findings import Finding, count, counted
from minipeft.doctor.trial import learns
from minipeft.targets import TRAINABLE

HEADS = {"head", "heads", "fc", "classifier", "classify", "classification_head", "score", "qa_outputs", "regressor"}


def something_is_trained(patient):
    """Some parameters require a gradient."""
    if patient.trained:
        return
    frozen = [name for name, config in patient.configs.items() if getattr(config, "inference_mode", False)]
    if frozen:
        cure = "To train on, load it with is_trainable=True; for inference all is well."
        why = f"The adapter {frozen[0]!r} was loaded for inference, and that freezes it."
    elif patient.pairs:
        why, cure = "A and B of the adapters are frozen too.", "Let A and B require gradients: p.requires_grad_(True)."
    else:
        why = "A frozen model cannot learn. The method is not attached, or it is on another model than this one."
        cure = "Attach a method, and examine and train what attaching returns."
    severe = patient.to_be_trained or (patient.model.training and not frozen)
    yield Finding("error" if severe else "note", "Nothing is trained: no parameter requires a gradient.", why, cure)


def the_base_is_frozen(patient):
    """The base is frozen beside its adapters."""
    outside = {name: p for name, p in patient.trained.items() if name not in patient.inserted and p.ndim > 1}
    beside = [name for name, p in outside.items() if any(stands_beside(pair, name, p) for pair in patient.pairs)]
    base = [name for name, p in patient.parameters.items() if name not in patient.inserted and p.ndim > 1]
    if beside or (patient.pairs and 2 * len(outside) > len(base)):
        yield Finding(
            "error",
            f"The base is not frozen: {count(outside, 'weight of it is', 'weights of it are')} trained.",
            "This is full fine-tuning with adapters on top: it costs the memory of full fine-tuning, and a checkpoint "
            "of the adapters alone does not hold what the base learned.",
            "Freeze the base before training: p.requires_grad_(False) for every parameter but those of the adapters "
            "(loralib: mark_only_lora_as_trainable).",
            tuple(outside),
        )
    elif patient.trained and len(patient.trained) == len(patient.parameters) and not patient.pairs:
        yield Finding(
            "note",
            f"Every parameter is trained, all {sum(p.numel() for p in patient.trained.values()):,}.",
            "This is full fine-tuning.",
            "If a small part was meant to be trained, freeze the rest.",
        )


def stands_beside(pair, name, p):
    """Is this parameter the weight that BA is added to?"""
    if not name.startswith(pair.path + ".") or PARTS & {*name.removeprefix(pair.path).split(".")}:
        return False
    return p.numel() == math.prod(pair.sides)


def what_is_trained_is_saved(patient):
    """What is trained is part of the checkpoint."""
    special = {"ADAPTION_PROMPT", "XLORA"}  # of peft: their parameters have not the adapter's name in theirs
    kinds = {str(getattr(config, "peft_type", "")).split(".")[-1] for config in patient.configs.values()}
    if not (patient.configs or attachments(patient.model)) or kinds & special:
        return
    if lost := [name for name in patient.trained if name not in patient.inserted]:
        cure = "Name them in modules_to_save" if patient.configs else "Attach with classes=, or Full(targets=…) on top,"
        yield Finding(
            "error",
            f"{counted(len(lost), 'trained parameter')} will not be saved.",
            "They were unfrozen by hand. A checkpoint of the adapter does not hold them, so they are lost on loading.",
            f"{cure} instead of setting requires_grad, or save the weights of the whole model.",
            tuple(lost),
        )


def the_head_is_trained(patient):
    """No fresh head is frozen."""
    vocabularies = {m.num_embeddings for m in patient.model.modules() if isinstance(m, nn.Embedding)}
    width = getattr(getattr(patient.model, "config", None), "initializer_range", None)
    for path, module in patient.model.named_modules() if patient.trained else ():
        if not isinstance(module, nn.Linear) or not HEADS & {*path.split(".")} or module.out_features in vocabularies:
            continue
        adapted = any(pair.path == path.rpartition(".")[0] for pair in patient.pairs)
        covered = {"original_module", "modules_to_save"} & {*path.split(".")}  # peft: not used, and loaded
        if adapted or covered or any(p.requires_grad for p in module.parameters()) or not looks_fresh(module, width):
            continue
        yield Finding(
            "warning",
            f"The head {path} is frozen and looks freshly initialised.",
            "A random head that is not trained gives random answers, whatever the adapters learn.",
            f"Train it with the adapters (peft: modules_to_save=[{path.split('.')[-1]!r}] or the task_type; minipeft: "
            "classes=), or load the weights it was trained to.",
            (path,),
        )


def looks_fresh(linear, width=None):
    """Are the weights of a Linear those of a common start: zeros, PyTorch's own, or Gaussian with a bias of zeros?

    width: the standard deviation with which transformers starts this model.
    """
    W, b = linear.weight.detach(), linear.bias
    if W.is_meta or not W.is_floating_point():
        return False  # promised or quantized
    if not W.any():
        return True
    bound, std = 1 / math.sqrt(linear.in_features), W.std(correction=0).item()
    uniform = 0.9 * bound < W.abs().max() < 1.001 * bound and abs(std * math.sqrt(3) / bound - 1) < 0.15
    if uniform and (b is None or b.abs().max() < 1.001 * bound):
        return True
    gaussian = width is not None and abs(std / width - 1) < 0.25 and abs(W.mean()) < width / 2
    return bool(gaussian and (b is None or not b.any()))


def the_numbers_are_finite(patient):
    """Weights and gradients are finite."""
    weights = {name: p for name, p in patient.parameters.items() if p.dtype in TRAINABLE and not p.is_meta}
    gradients = {name: p.grad for name, p in weights.items() if p.grad is not None}
    for what, tensors in (("weight", weights), ("gradient", gradients)):
        if broken := not_finite(tensors):
            yield Finding(
                "error",
                f"{count(broken, f'{what} holds', f'{what}s hold')} NaN or infinity.",
                "Training has diverged, or a number did not fit its type: float16 ends at 65,504.",
                "Go back to the last good checkpoint and train with a lower learning rate, clipped gradients, and "
                "float32 for what is trained.",
                tuple(broken),
            )


def trained_types_can_learn(patient):
    """What is trained is stored in a type that can hold small updates."""
    kinds = {}
    for name, p in patient.trained.items():
        kinds.setdefault(p.dtype, []).append(name)
    for kind, names in kinds.items():
        if not learns(patient.trained[names[0]]):
            yield Finding(
                "error",
                f"{count(names, 'trained tensor is', 'trained tensors are')} in {kind}.",
                "These are codes of quantized numbers, which no optimizer can train.",
                "Freeze them and train adapters beside them.",
                tuple(names),
            )
        elif kind == torch.float16:
            yield Finding(
                "warning",
                f"{count(names, 'trained tensor is', 'trained tensors are')} in float16.",
                "Gradients below about 3e-8 become zero, and an update below about 1/2048 of the weight is lost.",
                "Keep what is trained in float32 and let autocast compute in float16, with a GradScaler.",
                tuple(names),
            )
        elif kind == torch.bfloat16 and patient.optimizer is None:
            yield Finding(
                "note",
                f"{count(names, 'trained tensor is', 'trained tensors are')} in bfloat16.",
                "It has 8 bits of precision: an update smaller than about 1/256 of the weight is rounded away.",
                "Keep what is trained in float32, and examine the model with its optimizer: then this is measured.",
                tuple(names),
            )


CHECKS = (
    something_is_trained, the_base_is_frozen, what_is_trained_is_saved, the_head_is_trained, the_numbers_are_finite,
    trained_types_can_learn,
)  # fmt: skip
