"""What a task costs to store: a delta is what was trained, its method, and the fingerprint of the base it belongs to.

The file is safetensors; method and fingerprint are its metadata. So `load(path, model)` needs nothing else, and a
delta can not be put on the wrong base by accident.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from minipeft.attach import Method, WeightWrapper, Wrapper, attachments, detach, disabled
from minipeft.methods import METHODS

FORMAT = "minipeft delta 1"


class DeltaError(ValueError):
    """A delta that cannot be saved or loaded; the message says why and what to do."""


@dataclass
class Delta:
    """A delta off the model: what was trained, how, and on which base."""

    method: Method
    tensors: dict[str, Tensor]
    base: str  # fingerprint
    notes: dict  # what whoever saved it wanted to be known


def fingerprint(model):
    """SHA-256 of the base's weights, whatever is attached: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    with disabled(model):
        for name, tensor in sorted(model.state_dict().items()):
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def trained(model):
    """What is left of the attached methods after training, {dotted name: tensor}, without what the base has.

    The tensors are the live ones, unless the method has parts to fold away: then they are what those compute.
    """
    found = {}
    for swap in [s for a in attachments(model) for s in a.swaps]:
        if isinstance(swap.replacement, nn.Parameter):
            found[swap.path] = swap.replacement
        elif isinstance(swap.replacement, Wrapper):
            found |= {f"{swap.path}.{name}": t for name, t in swap.replacement.stored().items()}
        else:
            found |= {f"{swap.path}.{name}": t for name, t in swap.replacement.state_dict(keep_vars=True).items()}
    once = {}
    for name, tensor in found.items():  # tied weights are one tensor
        once.setdefault(tensor, name)
    return {name: tensor for tensor, name in once.items()}


def only(model, action):
    """The method of the one attached method. Raises DeltaError if there is not exactly one."""
    attached = attachments(model)
    if len(attached) != 1:
        raise DeltaError(
            f"{action} needs exactly one attached method, there are {len(attached)}: attach one, or detach first"
        )
    return attached[0].method


def fold(model):
    """Replace the parts that only training needs (a prompt encoder, a prefix's MLP) by what they compute.

    The model computes the same, faster; it is what saving and loading would leave. Returns the model.
    Raises DeltaError if there is not exactly one method attached.
    """
    method = only(model, "fold").folded()
    tensors = {name: t.detach().clone() for name, t in trained(model).items()}
    method.attach(detach(model))
    put(model, tensors, "the method")
    return model


def delta_of(model, notes=None):
    """The attached method as a Delta of its own, on the CPU.

    notes: what a reader may want to know later, {"task": "reverse+blue"}.

    Raises DeltaError if there is not exactly one method attached.
    """
    method = only(model, "a delta").folded()
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in trained(model).items()}
    return Delta(method, tensors, fingerprint(model), notes or {})


def save(model, path, notes=None):
    """Write the attached method to `path`, with notes as in `delta_of`. Returns the size of the file in bytes.

    Raises DeltaError if there is not exactly one method attached.
    """
    return write(delta_of(model, notes), path)


def write(delta, path):
    """Write a Delta to `path`, atomically: a crash leaves the old file or the new one. Returns its bytes."""
    metadata = {
        "format": FORMAT,
        "method": json.dumps({"method": type(delta.method).__name__, **asdict(delta.method)}),
        "base": delta.base,
        "notes": json.dumps(delta.notes),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(serialize(delta.tensors, metadata))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path.stat().st_size


def read(path, model=None):
    """Read a delta from disk without putting it on a model.

    model: the base it has to belong to, with or without something attached.

    Raises DeltaError if the file is not one, is cut short, holds an unknown method or belongs to another base.
    """
    if not Path(path).is_file():
        raise DeltaError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DeltaError(
            f"{path} is not a whole safetensors file ({error}): it was cut short or is something else"
        ) from None
    if metadata.get("format") != FORMAT:
        raise DeltaError(
            f"{path} is a safetensors file but no delta: its format is {metadata.get('format')!r}, not {FORMAT!r}"
        )
    try:
        method, notes = json.loads(metadata["method"]), json.loads(metadata["notes"])
        delta = Delta(recipe_from(method, path), tensors, metadata["base"], notes)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise DeltaError(f"{path}: its metadata is damaged ({error!r}); save the delta again") from None
    if model is not None:
        belongs(delta, model, path)
    return delta


def belongs(delta, model, path):
    if (mark := fingerprint(model)) != delta.base:
        raise DeltaError(
            f"{path} belongs to another base: it was trained on {delta.base[:12]}, this is {mark[:12]} "
            "(SHA-256 of the weights); load the base it was trained on"
        )


def recipe_from(data, path):
    name = data.pop("method")
    if name not in METHODS:
        raise DeltaError(f"{path} was made by the method {name!r}, which is not here; known are {', '.join(METHODS)}")
    unknown = set(data) - {f.name for f in fields(METHODS[name])}
    if unknown:
        raise DeltaError(
            f"{path}: {name} has no setting {', '.join(sorted(unknown))}; it was written by another version"
        )
    try:
        return METHODS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
    except ValueError as error:
        raise DeltaError(f"{path}: {error}") from None


def load(path, model):
    """Attach to a bare base the method stored at `path`, or a Delta, with its weights. Returns the model.

    Raises DeltaError for whatever does not fit (another base, missing or extra tensors, other shapes); RuntimeError if
    a method is attached already. After an error the model is as it was.
    """
    delta, path = (path, f"the delta of {path.method}") if isinstance(path, Delta) else (read(path), path)
    if not attachments(model):  # attaching twice is told below
        belongs(delta, model, path)
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # a random start that is overwritten
            delta.method.attach(model)
    except (ValueError, TypeError) as error:
        raise DeltaError(f"{path}: {delta.method} does not fit this model: {error}") from None
    try:
        put(model, delta.tensors, path)
    except BaseException:
        detach(model)
        raise
    return model


def put(model, tensors, path):
    """Copy stored tensors into the attached method, all of them or none."""
    live = trained(model)
    if missing := sorted(set(live) - set(tensors)):
        raise DeltaError(f"{path} lacks {', '.join(missing)}: the file is incomplete")
    if extra := sorted(set(tensors) - set(live)):
        raise DeltaError(f"{path} holds {', '.join(extra)}, for which the method has no place")
    for name, tensor in live.items():
        if tensor.dtype != tensors[name].dtype:
            raise DeltaError(f"{path}: {name} is of {tensors[name].dtype}, expected {tensor.dtype}")
        if tensor.shape != tensors[name].shape:
            raise DeltaError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(tensors[name])


def updates(model):
    """What moved in the base's own weights: {dotted name: (W, ΔW)}, for methods that change weights."""
    found = {}
    for swap in [s for a in attachments(model) for s in a.swaps]:
        if isinstance(swap.replacement, nn.Parameter):
            W = swap.original.detach().to(swap.replacement.device)
            found[swap.path] = W, swap.replacement.detach() - W
        elif isinstance(swap.original, nn.Parameter):
            found[swap.path] = swap.original.detach(), swap.replacement.delta().detach()
        elif isinstance(swap.replacement, WeightWrapper):
            base = swap.replacement.base
            for name, change in swap.replacement.deltas().items():
                found[f"{swap.path}.{name}"] = getattr(base, name).detach(), change.detach()
    return found
