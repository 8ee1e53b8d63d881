"""What a task costs to store: a delta is what was trained, its method, and the fingerprint of the base it belongs to.

The file is safetensors; the method, its configuration and the fingerprint are metadata. So `load(path, model)` needs
nothing else, and a delta cannot be put on the wrong base by accident.

The base of a delta is what the method was attached to. A stack of methods is saved one by one: `save(view, ...)` saves
the one on top, `save(detach(view, 1), ...)` the one below, and they are loaded from the lowest to the top.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from minipeft.attach import Method, WeightWrapper, Wrapper, attachments, detach, place
from minipeft.checks import check_whole, not_finite
from minipeft.files import write_atomically
from minipeft.methods import METHODS

FORMAT = "minipeft delta 2"


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
    """SHA-256 of a model: names, types, shapes and bytes of its weights; of a view, of its base's and its deltas'."""
    digest = hashlib.sha256()
    add_tensors(digest, detach(model).state_dict())
    for level in reversed(range(len(attachments(model)))):
        below = detach(model, level)
        digest.update(repr(attachments(below)[-1].method.folded()).encode())
        add_tensors(digest, trained(below))
    return digest.hexdigest()


def add_tensors(digest, tensors):
    check_whole("a fingerprint or checksum", tensors)
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


def checksum(tensors):
    """SHA-256 of what a delta holds."""
    add_tensors(digest := hashlib.sha256(), tensors)
    return digest.hexdigest()


def only(model, action):
    """The method attached last, as an Attachment. Raises DeltaError if there is none."""
    if not attachments(model):
        raise DeltaError(
            f"{action} needs an attached method, and there is none: attach one, and take what attach returns"
        )
    return attachments(model)[-1]


def trained(model):
    """What is left of the method attached last after training, {dotted name: tensor}, without what the base has.

    The tensors are the live ones, unless the method has parts to fold away: then they are what those compute. Buffers
    that training has moved (the statistics of a BatchNorm) are among them.

    Raises TypeError if FSDP has spread them over processes.
    """
    if not attachments(model):
        return {}
    found = {}
    for path, layer in attachments(model)[-1].layers.items():
        if isinstance(layer, nn.Parameter):
            found[path] = layer
        else:
            parts = layer.stored() if isinstance(layer, Wrapper) else layer.state_dict(keep_vars=True)
            found |= {f"{path}.{name}": t for name, t in parts.items()}
    once = {}
    for name, tensor in found.items():  # tied weights are one tensor
        once.setdefault(tensor, name)
    check_whole("taking what was trained", {name: tensor for tensor, name in once.items()})
    return {name: tensor for tensor, name in once.items()} | moved_buffers(model)


def moved_buffers(model):
    """The base's buffers that are not what they were below the method attached last, {dotted name: tensor}."""
    root, below, found = detach(model), detach(model, 1), {}
    for name in dict(root.named_buffers()).keys() & root.state_dict().keys():
        now, before = (owner._buffers.get(last) for owner, last in (place(model, name), place(below, name)))
        if now is not None and not torch.equal(now, before.to(now)):
            found[name] = now
    return found


def fold(model):
    """A view without the parts that only training needs (a prompt encoder, a prefix's MLP), with what they compute.

    It computes the same, faster; it is what saving and loading would give. Raises DeltaError if nothing is attached.
    """
    entry = only(model, "fold")
    tensors = {name: t.detach().clone() for name, t in trained(model).items()}
    return put(entry.method.folded(), entry.base, tensors, "the method")


def delta_of(model, notes=None):
    """The method attached last as a Delta of its own, on the CPU.

    notes: what a reader may want to know later, {"task": "reverse+blue"}; what is not plain data is kept as text.

    Raises DeltaError if nothing is attached, the view was cast without its base, or a number is not finite.
    """
    entry = only(model, "a delta")
    if cast := dtypes(model) - dtypes(entry.base):
        raise DeltaError(
            f"the view was cast to {', '.join(map(str, cast))} and its base was not, so there is no base to load this "
            "on: cast the base and attach to it, or cast both with views.move(view, dtype)"
        )
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in trained(model).items()}
    if broken := not_finite(tensors):
        raise DeltaError(
            f"{', '.join(broken)} holds numbers that are not finite: train again, with a lower learning rate"
        )
    if notes is not None and not isinstance(notes, dict):
        raise DeltaError(f'notes are a dictionary like {{"task": "reverse+blue"}}, got {notes!r}')
    return Delta(
        entry.method.folded(), tensors, fingerprint(entry.base), json.loads(json.dumps(notes or {}, default=str))
    )


def dtypes(model):
    return {p.dtype for p in model.parameters() if p.is_floating_point()}


def save(model, path, notes=None):
    """Write the method attached last to `path`, with notes as in `delta_of`. Returns the size of the file in bytes."""
    return write(delta_of(model, notes), path)


def write(delta, path):
    """Write a Delta to `path`, atomically: a crash leaves the old file or the new one. Returns its bytes."""
    metadata = {
        "format": FORMAT,
        "method": type(delta.method).__name__,
        "configuration": json.dumps(asdict(delta.method)),
        "base": delta.base,
        "sha256": checksum(delta.tensors),
        "notes": json.dumps(delta.notes),
    }
    return write_atomically(path, serialize(delta.tensors, metadata))


def read(path, model=None):
    """Read a delta from disk without putting it on a model.

    model: the base it has to belong to.

    Raises DeltaError if the file is not one, is damaged, holds an unknown method or belongs to another base.
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
    version = metadata.get("format")
    if version == "minipeft delta 1":
        raise DeltaError(f"{path} was saved by an older minipeft ({version}; this one reads {FORMAT}): train it again")
    if version != FORMAT:
        raise DeltaError(f"{path} is a safetensors file but no delta: its format is {version!r}, not {FORMAT!r}")
    try:
        settings, notes = json.loads(metadata["configuration"]), json.loads(metadata["notes"])
        if not isinstance(notes, dict) or not isinstance(settings, dict):
            raise TypeError("notes and configuration are dictionaries")
        delta = Delta(method_from(metadata["method"], settings, path), tensors, metadata["base"], notes)
        intact = metadata["sha256"] == checksum(tensors)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise DeltaError(f"{path}: its metadata is damaged ({error!r}); save the delta again") from None
    if not intact:
        raise DeltaError(
            f"{path} is damaged: its numbers are not those that were saved (SHA-256 differs); save it again"
        )
    if broken := not_finite(tensors):
        raise DeltaError(f"{path}: {', '.join(broken)} holds numbers that are not finite; train it again")
    if model is not None:
        belongs(delta, model, path)
    return delta


def belongs(delta, model, path):
    if (mark := fingerprint(model)) != delta.base:
        on = (
            f", with {' on '.join(str(a.method) for a in attachments(model)[::-1])} on it" if attachments(model) else ""
        )
        raise DeltaError(
            f"{path} belongs to another base: it was trained on {delta.base[:12]}, this is {mark[:12]}{on} "
            "(SHA-256 of the weights); load the base it was trained on"
        )


def method_from(name, settings, path):
    if name not in METHODS:
        raise DeltaError(f"{path} was made by the method {name!r}, which is not here; known are {', '.join(METHODS)}")
    if unknown := set(settings) - {f.name for f in fields(METHODS[name])}:
        raise DeltaError(
            f"{path}: {name} has no setting {', '.join(sorted(unknown))}; it was written by another version"
        )
    try:
        return METHODS[name](**settings)
    except ValueError as error:
        raise DeltaError(f"{path}: {error}") from None


def load(path, model):
    """A view of the model with the method that is stored at `path`, or that a Delta is. The model is its base.

    Raises DeltaError for whatever does not fit (another base, missing or extra tensors, other shapes).
    """
    delta, path = (path, f"the delta of {path.method}") if isinstance(path, Delta) else (read(path), path)
    belongs(delta, model, path)
    longest = max((size for t in delta.tensors.values() for size in t.shape), default=0)
    for name, size in sizes(delta.method):  # before anything of that size is made
        if size > longest:
            raise DeltaError(f"{path} has {name}={size}, but no tensor in it is longer than {longest}: it is damaged")
    return put(delta.method, model, delta.tensors, path)


def sizes(method):
    """(setting, number) for all settings of a method that are the length of a tensor which a delta holds."""
    for name in (*method.SIZES, "classes"):
        value = getattr(method, name)
        yield from ((name, n) for n in (value.values() if isinstance(value, dict) else [value]) if isinstance(n, int))


def put(method, model, tensors, path):
    """The method on a view of the model, with stored tensors instead of its start."""
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # a random start that is overwritten
            view = method.attach(model)
    except (ValueError, TypeError) as error:
        raise DeltaError(f"{path}: {method} does not fit this model: {error}") from None
    live, moved = trained(view), {}
    for name in sorted(set(tensors) - set(live)):
        moved[name] = buffer_at(view, name, path)
    if missing := sorted(set(live) - set(tensors)):
        raise DeltaError(f"{path} lacks {', '.join(missing)}: the file is incomplete")
    for name, tensor in live.items():
        if tensor.dtype != tensors[name].dtype:
            raise DeltaError(f"{path}: {name} is of {tensors[name].dtype}, expected {tensor.dtype}")
        if tensor.shape != tensors[name].shape:
            raise DeltaError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(tensors[name])
    for name, (owner, last) in moved.items():
        owner._buffers[last] = tensors[name].to(owner._buffers[last])
    return view


def buffer_at(view, name, path):
    """(module, name) of a buffer of the base. Raises DeltaError if there is none."""
    try:
        owner, last = place(view, name)
    except AttributeError:
        owner, last = None, name
    if owner is None or owner._buffers.get(last) is None:
        raise DeltaError(f"{path} holds {name}, for which the method has no place")
    return owner, last


def updates(model):
    """What the methods changed in the weights: {dotted name: (W, ΔW)}. W is the frozen weight: with QLoRA, Ŵ."""
    found = {}
    for entry in attachments(model):
        for path, layer in entry.layers.items():
            for name, W, change in changes_of(layer, path, entry.base):
                W, before = found.get(name, (W.detach(), 0))
                found[name] = W, before + change.detach()
    return found


def changes_of(layer, path, base):
    """(dotted name, weight below the layer, its change) of all that a layer changes; base: what it was attached to."""
    if isinstance(layer, WeightWrapper):
        for name, change in layer.deltas().items():
            yield f"{path}.{name}", getattr(layer.base, name), change
    elif isinstance(layer, nn.Parameter):
        W = getattr(*place(base, path)).to(layer)
        yield path, W, layer - W
    elif hasattr(layer, "delta"):
        yield path, getattr(*place(base, path)), layer.delta()
