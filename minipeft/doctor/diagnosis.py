"""`doctor`: which checks are made of what."""

import math
import os

import torch
from torch import nn

from minipeft.arguments import checked, got
from minipeft.attach import trainable
from minipeft.checks import unwrapped
from minipeft.doctor.adapter_checks import CHECKS as OF_ADAPTERS
from minipeft.doctor.file_checks import CHECKS as OF_FILES
from minipeft.doctor.files import stored
from minipeft.doctor.findings import Checkup
from minipeft.doctor.model_checks import CHECKS as OF_MODELS
from minipeft.doctor.optimizer_checks import CHECKS as OF_OPTIMIZERS
from minipeft.doctor.patient import Patient
from minipeft.doctor.script import run
from minipeft.doctor.setting_checks import CHECKS as OF_SETTINGS
from minipeft.doctor.state_checks import CHECKS as OF_STATE
from minipeft.doctor.step_checks import AFTER as AFTER_STEPS
from minipeft.doctor.step_checks import BEFORE as BEFORE_STEPS
from minipeft.doctor.trial import attempt


def doctor(patient, optimizer=None, loss=None, *, targets=(), steps=3):
    """Examine a model, or what is at a path. Returns a Checkup: a list of Findings that prints as a report.

    Args:
        patient: a model; or the path of an adapter's folder, of a .safetensors file, or of a Python file that defines
            `model` and, if it likes, `optimizer`, `loss` and `targets`. That file is run.
        optimizer: the one that will train the model.
        loss: a function without arguments that computes the loss of one batch with the model. It is called `steps`
            times, each time with a step of a copy of the optimizer. Afterwards weights, buffers, gradients, modes and
            random numbers are as they were; what the function itself counts or draws from an iterator is not.
        targets: names of the modules that should be adapted, each the end of a dotted name.
        steps: at least 2, since A of a fresh LoRA has no gradient in the first one.

    Raises TypeError or ValueError for arguments that cannot be right, and for a path at which there is no adapter.
    """
    if isinstance(patient, str | os.PathLike):
        if optimizer is not None or loss is not None or targets:
            raise TypeError(
                "doctor: a path is examined alone; to examine a model with its optimizer, hand on the model"
            )
        if str(patient).endswith(".py") and os.path.isfile(patient):
            return doctor(**run(patient), steps=steps)
        return examine(stored(patient), OF_FILES)
    model = unwrapped(patient)
    optimizer = an_optimizer(optimizer)
    if loss is not None and not callable(loss):
        raise TypeError(f"doctor: loss is a function of no arguments, lambda: loss_of(batch), got {got(loss)}")
    if isinstance(targets, str):
        raise TypeError(f"doctor: targets are names in a tuple, ({targets!r},), got {got(targets)}")
    steps = checked("doctor: steps", steps, int, (2, math.inf))
    trial = attempt(model, loss, optimizer, steps) if loss is not None and trainable(model) else None
    given = optimizer is not None or loss is not None
    patient = Patient(model, optimizer, trial, tuple(targets), to_be_trained=given)
    checkup = examine(patient, (*OF_MODELS, *OF_STATE, *OF_ADAPTERS, *OF_SETTINGS))
    apply(checkup, patient, OF_OPTIMIZERS, "no optimizer was given" if optimizer is None else "")
    missing = "no loss was given" if loss is None else "nothing is trained" if trial is None else ""
    apply(checkup, patient, BEFORE_STEPS, missing)
    stopped = trial is not None and (trial.failed or trial.cut)
    apply(checkup, patient, AFTER_STEPS, missing or ("the steps on trial stopped early" if stopped else ""))
    return checkup


def apply(checkup, patient, checks, missing):
    """Add these checks, or skip them because something is missing."""
    if missing:
        checkup.skip(missing, checks)
    for check in checks if not missing else ():
        checkup.add(check, patient)


def examine(patient, checks):
    """The check-up of a patient, one that has `about()`, by these checks."""
    checkup = Checkup(patient.about())
    with torch.no_grad():
        for check in checks:
            checkup.add(check, patient)
    return checkup


def an_optimizer(optimizer):
    """The optimizer, out of what wraps it. Raises TypeError if it is none."""
    while hasattr(optimizer, "optimizer") and not isinstance(optimizer, nn.Module):
        optimizer = optimizer.optimizer
    if optimizer is not None and not hasattr(optimizer, "param_groups"):
        raise TypeError(f"doctor: the second argument is the optimizer, torch.optim.AdamW(…), got {got(optimizer)}")
    return optimizer
