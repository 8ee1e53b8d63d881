"""What attaching and merging see through, and what they refuse because it could not be right."""

import warnings
from types import FunctionType

from torch import nn

from minipeft.arguments import got


def unwrapped(model):
    """The model itself, out of torch.compile, DataParallel or DistributedDataParallel. TypeError if it is no model."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is wanted here, a torch.nn.Module such as base(), got {got(model)}")
    while True:
        if "_orig_mod" in model._modules:
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


SHARDS = ("DTensor", "FlatParameter")  # what FSDP2 and FSDP make of a parameter


def check_whole(action, tensors):
    """Raises TypeError if FSDP has spread one of the tensors, {name: tensor}, over processes: each holds a part of it.

    action: what would be done, for the message: "merging".
    """
    for name, tensor in tensors.items():
        if type(tensor).__name__ in SHARDS:
            raise TypeError(
                f"{action} needs whole tensors, and {name} is a {type(tensor).__name__}: FSDP has spread it over "
                "processes. Give every process the whole model (torchrun, and no fully_shard), or put the tensors "
                "together in all processes at once, with full_tensor(), and load them into a model that is whole"
            )


def check_forwards(model):
    """Raises TypeError for a model that cannot be copied.

    A copy of a module whose forward was replaced by a function would run the original; parts of a tensor are no model.
    """
    check_whole("attaching or merging", dict(model.named_parameters()))
    for name, module in model.named_modules():
        if isinstance(vars(module).get("forward"), FunctionType):
            raise TypeError(
                f"the forward of {name or 'the model'!r} was replaced by a function, which still runs the original in "
                "any copy; put the old forward back, attach, and replace it in the view"
            )


def not_finite(tensors):
    """The names of those that hold an infinity or a NaN; tensors: {name: tensor}."""
    return [name for name, tensor in tensors.items() if not tensor.isfinite().all()]


def check_finite(model, what):
    """Raises ValueError if a parameter is not finite."""
    if broken := not_finite(dict(model.named_parameters())):
        raise ValueError(f"{what} has numbers that are not finite, in {', '.join(broken)}: did training diverge?")


def tied(model):
    """Sets of the names of one and the same weight, where it has several."""
    names = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), set()).add(name)
    return [several for several in names.values() if len(several) > 1]


def warn_untied(before, after):
    """Warns of weights that were one and the same in the model `before`, and differ in `after`."""
    still = tied(after)
    for names in tied(before):
        if not any(names <= together for together in still):
            told = " and ".join(sorted(names))
            warnings.warn(f"{told} were one weight and now differ: store both and do not tie them again", stacklevel=3)
