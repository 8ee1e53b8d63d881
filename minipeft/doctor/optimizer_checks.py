"""Checks of an optimizer beside its model: does it hold what is trained, and can its updates change the weights?"""

import torch

from minipeft.doctor.findings import Finding, counted
from minipeft.doctor.trial import held, peak

MOST, HARDLY = 0.5, 0.1  # a tensor of which at most so much moves is told; if all move less than the second, an error


def the_optimizer_holds_what_is_trained(patient):
    """The optimizer holds every trained parameter."""
    inside, own = {id(p) for p in held(patient.optimizer)}, {id(p) for p in patient.parameters.values()}
    missing = [name for name, p in patient.trained.items() if id(p) not in inside]
    strange = sum(id(p) not in own for p in held(patient.optimizer))
    if missing:
        alone = len(missing) == len(patient.trained)
        count = f"none of the {len(missing)}" if alone else f"all but {len(missing)} of the {len(patient.trained)}"
        stale = f"It holds {counted(strange, 'parameter')} that the model does not have: it was made before the "
        yield Finding(
            "error" if alone else "warning",
            f"The optimizer holds {count} trained tensors.",
            (stale + "method was attached, or for another model. " if strange else "")
            + "A step does not change what the optimizer does not hold.",
            "Make the optimizer after attaching, from the parameters of the model that is trained which require "
            "gradients.",
            tuple(missing),
        )
    elif strange:
        yield Finding(
            "note", f"The optimizer holds {counted(strange, 'parameter')} that the model does not have.",
            "They belong to another model, or to one that was replaced.",
            "If nothing else is trained with this optimizer, make it anew.",
        )  # fmt: skip


def the_optimizer_moves_nothing_frozen(patient):
    """The optimizer changes nothing that is frozen."""
    names = {id(p): name for name, p in patient.parameters.items()}
    frozen = [(p, group) for group in patient.optimizer.param_groups for p in group["params"]
              if not p.requires_grad and id(p) in names]  # fmt: skip
    moved = [names[id(p)] for p, _ in frozen if p.grad is not None]
    if moved:
        decay = max(group.get("weight_decay") or 0 for p, group in frozen if p.grad is not None)
        also = f" and weight decay ({decay:g})" if decay else ""
        yield Finding(
            "error",
            f"The next step of the optimizer moves {counted(len(moved), 'frozen parameter')}.",
            f"They still have an old gradient, and zeros count as one: momentum{also} act on them.",
            "Call optimizer.zero_grad(set_to_none=True) after freezing, or make the optimizer from what is trained.",
            tuple(moved),
        )
    elif frozen:
        yield Finding(
            "note",
            f"The optimizer holds {counted(len(frozen), 'frozen parameter')}.",
            "Without a gradient they are passed over, weight decay too.",
            "Give it only what requires gradients; then nothing can go wrong with the rest.",
        )


def the_learning_rate_is_set(patient):
    """Every learning rate is above 0."""
    idle = [group for group in patient.optimizer.param_groups if not peak(group) and group.get("lr") is not None]
    if names := [name for name, p in patient.trained.items() if any(p is q for g in idle for q in g["params"])]:
        yield Finding(
            "warning", f"The learning rate of {counted(len(names), 'trained tensor')} is 0.",
            "Nothing changes at this rate, and no schedule says that it will rise.", "Set lr.", tuple(names),
        )  # fmt: skip


def updates_survive_rounding(patient):
    """No update is seen to be lost in rounding."""
    shares = patient.trial.moved if patient.trial else {}
    guessed = {} if shares else movable(patient)
    lost = {name: share for name, share in (shares or guessed).items() if share <= MOST}
    if lost:
        share, stuck = max(lost.values()), len(lost) == len(patient.trained)
        kinds = sorted({str(patient.trained[name].dtype).removeprefix("torch.") for name in lost})
        yield Finding(
            "error" if stuck and share < HARDLY else "warning",
            f"Of {counted(len(lost), 'trained tensor')} in {' and '.join(kinds)}, "
            + (f"at most {100 * share:.0f} % of the numbers move" if share else "nothing moves")
            + (" although they have gradients." if shares else " at this learning rate."),
            "The update is smaller than half of the distance to the next number of this type, so w + Δw is rounded "
            "to w again, at every step.",
            "Keep what is trained in float32, or raise the learning rate.",
            tuple(lost),
        )


def movable(patient):
    """{name: the share of its numbers other than zero that an update of the size of the learning rate changes}.

    That is the size of Adam's updates; of other optimizers nothing is said.
    """
    found = {}
    if "adam" not in type(patient.optimizer).__name__.lower():
        return found
    for group in patient.optimizer.param_groups:
        rates = {id(p): peak(group) for p in group["params"]}
        for name, p in patient.trained.items():
            if rates.get(id(p)) and p.dtype in (torch.float16, torch.bfloat16, torch.float32) and p.any():
                w = p.detach()[p.detach() != 0]
                found[name] = ((w + rates[id(p)] != w) | (w - rates[id(p)] != w)).float().mean().item()
    return found


CHECKS = (
    the_optimizer_holds_what_is_trained, the_optimizer_moves_nothing_frozen, the_learning_rate_is_set,
    updates_survive_rounding,
)  # fmt: skip
