"""Checks of what a few trial steps showed (see trial.py): does the loss reach what is trained?

AFTER are those that make sense only if steps were taken.
"""

import torch

from minipeft.doctor.findings import Finding, count, counted


def the_loss_can_be_trained_on(patient):
    """The loss is a finite number that depends on what is trained."""
    trial = patient.trial
    if trial.failed == "raised":
        yield Finding("error", "No step could be taken.", f"loss() raised {trial.said}.", "Mend the loss first.")
    elif trial.failed == "no loss":
        yield Finding(
            "error", f"loss() returned {trial.said}, not a loss.", "A loss is a tensor with one number.",
            "Return the mean over the batch, as a tensor.",
        )  # fmt: skip
    elif trial.failed == "not finite":
        yield Finding(
            "error", f"The loss is {trial.losses[-1]} at step {len(trial.losses)}.",
            "Every gradient is NaN then. Either the model diverges, or the batch asks for nothing: the mean over no "
            "labels is NaN.", "Look at the labels of the batch, then lower the learning rate.",
        )  # fmt: skip
    elif trial.losses and not any(trial.losses):
        yield Finding(
            "warning",
            f"The loss is exactly 0 in {of_batches(trial)}.",
            "Nothing is asked: every label is masked, or what is summed is empty.",
            "Look at the labels of a batch: some must not be the value that is ignored (-100).",
        )
    elif trial.failed == "no graph" and patient.trained and not trial.cut:
        off = " Gradients are switched off here: torch.set_grad_enabled(False)." if not torch.is_grad_enabled() else ""
        yield Finding(
            "error",
            "The loss does not depend on anything that is trained.",
            "It was computed by another model than the one the adapters are on, or below torch.no_grad(), or "
            f"something was detached on the way.{off}",
            "Compute the loss with the model that is examined, without no_grad and detach.",
        )


def gradients_pass_checkpoints(patient):
    """Gradients pass through the checkpointed blocks."""
    if patient.trial.cut:
        yield Finding(
            "error",
            "A checkpointed block got no input that requires a gradient: what is trained in it gets none.",
            "Re-entrant checkpointing sends gradients back only if an input of the block requires one; behind a "
            "frozen embedding none does.",
            "Call model.enable_input_require_grads(), or checkpoint with use_reentrant=False.",
        )


def every_trained_tensor_gets_a_gradient(patient):
    """Every trained tensor gets a gradient."""
    trial = patient.trial
    missing = [name for name, gradient in trial.gradients.items() if gradient is None]
    zero = [name for name, gradient in trial.gradients.items() if gradient == 0]
    some = of_batches(trial)
    total = len(trial.gradients)
    if missing:
        yield Finding(
            severity(patient, missing),
            f"{len(missing)} of {total} trained tensors got no gradient in {some}.",
            "The forward pass does not reach them: it reads the weight of a module instead of calling the module, "
            "skips the layer, or something is detached on the way. (Experts that no token was sent to are healthy.)",
            "Attach where the forward pass goes through, or take these names out of the targets.",
            tuple(missing),
        )
    if zero:
        yield Finding(
            severity(patient, zero),
            f"{len(zero)} of {total} trained tensors got only zeros as gradient in {some}.",
            "They are dead (A = 0 and B = 0, a scale of 0), what follows multiplies by zero, or the gradient was too "
            "small for its type.",
            "Look at the start of these tensors and at what comes after them.",
            tuple(zero),
        )


def of_batches(trial):
    return "1 batch" if len(trial.losses) == 1 else f"{len(trial.losses)} batches"


def severity(patient, names):
    """An error if nothing learns; a warning if a part of the few that are trained does not; of a whole model a note."""
    if len(names) == len(patient.trial.gradients):
        return "error"
    return "warning" if patient.sparing else "note"


def the_steps_stay_finite(patient):
    """A few steps leave finite numbers."""
    losses = patient.trial.losses
    if spoilt := patient.trial.spoilt:
        yield Finding(
            "error",
            f"{count(spoilt, 'tensor is', 'tensors are')} not finite after {counted(len(losses), 'step')}.",
            f"The losses were {', '.join(f'{loss:.4g}' for loss in losses)}: training diverges at once.",
            "Lower the learning rate, clip the gradients, keep what is trained in float32.",
            tuple(spoilt),
        )


def the_loss_is_computed_in_training_mode(patient):
    """The loss is computed in training mode."""
    ran = patient.trial.dropouts
    if patient.optimizer is not None and ran and not any(ran.values()):
        yield Finding(
            "warning",
            f"The loss is computed in eval mode: {counted(len(ran), 'dropout')} with p > 0 did nothing.",
            "A model that was loaded is in eval mode.",
            "Call model.train() before training.",
            tuple(ran),
        )


def nothing_frozen_changes(patient):
    """Computing the loss changes no frozen weight."""
    if slid := patient.trial.slid:
        yield Finding(
            "warning",
            f"Computing the loss changed {counted(len(slid), 'frozen weight')}.",
            "A module writes its own weight in the forward pass (an embedding with max_norm does): the base is not "
            "the same afterwards.",
            "Turn that off in the frozen base (max_norm=None).",
            tuple(slid),
        )


BEFORE = (the_loss_can_be_trained_on, gradients_pass_checkpoints)
AFTER = (
    every_trained_tensor_gets_a_gradient, the_steps_stay_finite, the_loss_is_computed_in_training_mode,
    nothing_frozen_changes,
)  # fmt: skip
