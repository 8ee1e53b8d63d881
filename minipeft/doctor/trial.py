"""A few steps of training on trial: what gets a gradient, what moves. Afterwards everything is as it was."""

import contextlib
import copy
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from minipeft.attach import trainable
from minipeft.checks import not_finite
from minipeft.doctor.restoring import unchanged, writing
from minipeft.targets import TRAINABLE

SMALL = 1e-3  # gradients below this share of the largest are passed over where it is asked whether a weight moves
LR = 1e-3  # where there is no optimizer, or its learning rate is still 0
CUT = "None of the inputs have requires_grad=True"  # what PyTorch says of a block that is checkpointed re-entrantly


@dataclass
class Trial:
    """What happened in the trial steps.

    losses: of each step.
    failed, said: why there was no further step: "raised", "no loss", "not finite" or "no graph", and the words to it.
    gradients: {name: the largest entry over all steps, or None if there never was a gradient}.
    moved: {name: the share of the entries with a gradient that is not small that changed}; empty without an optimizer
        that holds all that is trained.
    spoilt: names of gradients and weights that were not finite.
    cut: a checkpointed block said that its inputs need no gradient.
    dropouts: {name: was it on}, of those that ran.
    slid: frozen weights that were not the same afterwards.
    """

    losses: list[float] = field(default_factory=list)
    failed: str = ""
    said: str = ""
    gradients: dict[str, float | None] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    spoilt: list[str] = field(default_factory=list)
    cut: bool = False
    dropouts: dict[str, bool] = field(default_factory=dict)
    slid: list[str] = field(default_factory=list)


def attempt(model, loss, optimizer=None, steps=3):
    """Take so many steps with `loss()`, and with a copy of the optimizer, or AdamW without one. Returns a Trial.

    In the first step only B of a fresh LoRA has a gradient, in the second A has one too: one step would not do.
    """
    trial, watched = Trial(), {name: p for name, p in trainable(model).items() if learns(p)}
    own = {name: (p, p.detach().clone()) for name, p in writing(model).items()}
    with unchanged(model, held(optimizer)), listening(model, trial), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        steps_of(trial, watched, loss, optimizer, steps)
        trial.slid = [name for name, (p, before) in own.items() if not p.requires_grad and not torch.equal(p, before)]
    trial.cut = any(CUT in str(warning.message) for warning in said)
    for warning in said:
        if CUT not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return trial


def steps_of(trial, watched, loss, optimizer, steps):
    """watched: {name: parameter} of what is trained."""
    trial.gradients = dict.fromkeys(watched)
    start = {name: p.detach().clone() for name, p in watched.items()}
    asked = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in watched.items()}
    if not {id(p) for p in watched.values()} <= {id(p) for p in held(optimizer)}:
        optimizer = None  # with one that does not hold everything, gradients would be missing for that reason alone
    stepper = stepper_of(watched, optimizer)
    for _ in range(steps):
        if not backward(trial, loss):
            return
        gradients = {name: p.grad.detach().to_dense() for name, p in watched.items() if p.grad is not None}
        sizes = {name: gradient.abs().max().item() for name, gradient in gradients.items()}
        for name, gradient in gradients.items():
            trial.gradients[name] = max(trial.gradients[name] or 0.0, sizes[name])
            asked[name] |= gradient.abs() > SMALL * max(sizes.values())
        trial.spoilt = [f"the gradient of {name}" for name in not_finite(gradients)]
        if trial.spoilt:
            return
        optimizer, stepper = step(watched, optimizer, stepper)
        for p in watched.values():
            p.grad = None
    trial.spoilt = not_finite(watched)
    for name, p in watched.items():
        if optimizer is not None and asked[name].any():
            trial.moved[name] = (p.detach() != start[name])[asked[name]].float().mean().item()


def step(watched, optimizer, stepper):
    """A step. Returns optimizer and stepper for the next; (None, AdamW) if this one cannot step: it wants a closure."""
    if optimizer is not None:
        try:
            stepper.step()
            return optimizer, stepper
        except Exception:
            stepper = stepper_of(watched)
    for p in watched.values():
        p.grad = None if p.grad is None else p.grad.to_dense()
    stepper.step()
    return None, stepper


def learns(p):
    """Can a parameter of this type be trained? Codes of quantized numbers cannot."""
    return p.dtype in TRAINABLE or p.is_complex()


def held(optimizer):
    """The parameters in an optimizer."""
    return [p for group in getattr(optimizer, "param_groups", ()) for p in group["params"]]


def backward(trial, loss):
    """Send the gradients of the loss of a batch back. False if that is not possible: `trial.failed` says why."""
    try:
        value = judged(trial, loss())
        if not trial.failed:
            value.backward()
    except Exception as error:  # the user's own code
        trial.failed, trial.said = "raised", f"{type(error).__name__}: {' '.join(str(error).split())}"
    return not trial.failed


def judged(trial, value):
    """What `loss()` gave. Notes why it cannot be trained on, if so."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        trial.failed, trial.said = "no loss", got
        return value
    trial.losses.append(value.item())
    if not value.isfinite():
        trial.failed = "not finite"
    elif not value.requires_grad:
        trial.failed = "no graph"
    return value


def stepper_of(watched, optimizer=None):
    """A copy of the optimizer with a state of its own, for the same parameters; AdamW if it cannot be copied.

    A learning rate that a warm-up has not raised yet is raised for the trial.
    """
    with contextlib.suppress(Exception):
        if optimizer is not None:
            stepper = copy.deepcopy(optimizer, {id(p): p for p in held(optimizer)})
            for group in stepper.param_groups:
                group["lr"] = group["lr"] if group.get("lr") is None else peak(group) or LR  # None: it chooses itself
            return stepper
    return torch.optim.AdamW(list(watched.values()), lr=LR)


def peak(group):
    """The learning rate of a group of an optimizer, or that of its schedule, if it is higher."""
    return max(float(group.get(name) or 0) for name in ("lr", "initial_lr", "max_lr"))


@contextlib.contextmanager
def listening(model, trial):
    """Notes, while it lasts, which dropouts run, and whether they are on."""
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:

            def note(module, inputs, name=name):
                trial.dropouts[name] = module.training

            hooks.append(module.register_forward_pre_hook(note))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
