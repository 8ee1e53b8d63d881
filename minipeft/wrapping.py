"""How a method is put on a model and taken off again, written once for every method.

A method is a few small trainable things that stand in front of frozen ones. So attaching is a list of *swaps*: at
this place of the model, instead of the original, stands the replacement. The list is kept on the model, and
  detach      puts every original back: the base again, bit for bit
  disabled    puts them back for a while
  merge       puts plain modules in their place, which hold the method's effect in their weights
"""

import copy
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, replace

import torch
from torch import nn
from torch.nn.utils import parametrize


class Wrapper(nn.Module):
    """A module that stands in front of a frozen one, `base`, and answers for it: `wrapper.weight` is `base.weight`.

    A method's layer derives from it, adds its parameters, under names that the base has not, and writes its equation in
    `forward`.
    """

    def __init__(self, base):
        super().__init__()
        self.base = base

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(bottom(super().__getattr__("base")), name)

    def merged(self):
        """A plain module that computes the same as this one. TypeError where the mathematics allows none."""
        raise TypeError(f"{type(self).__name__} cannot be merged: it is not a change of the frozen weights alone")


def bottom(module):
    """The frozen module below however many wrappers."""
    while isinstance(module, Wrapper):
        module = module.base
    return module


class WeightWrapper(Wrapper):
    """A wrapper whose whole effect is W + ΔW; it tells ΔW, shaped like `base.weight`, in `delta()`."""

    def delta(self):
        raise NotImplementedError(f"{type(self).__name__}.delta: the change of the weight, shaped like base.weight")

    def merged(self):
        base = self.base.merged() if isinstance(self.base, Wrapper) else self.base
        twin = copy.copy(base)  # shares everything with the base but the weight
        twin._parameters = {**base._parameters, "weight": frozen(base.weight + self.delta())}
        return twin


def frozen(tensor):
    return nn.Parameter(tensor.detach(), requires_grad=False)


@dataclass
class Swap:
    """At `parent.name` stands `replacement` (a module or a parameter) instead of `original`."""

    path: str  # dotted name of the place in the model
    parent: nn.Module
    name: str
    original: nn.Module | nn.Parameter
    replacement: nn.Module | nn.Parameter

    def put(self, thing):
        setattr(self.parent, self.name, thing)


@dataclass
class Attachment:
    """What one `attach` did to a model: its recipe, its swaps, and how to undo the rest."""

    recipe: "Recipe"
    swaps: list[Swap] = field(default_factory=list)
    parametrized: list[tuple[nn.Module, str]] = field(default_factory=list)
    requires_grad: list[tuple[nn.Parameter, bool]] = field(default_factory=list)
    merged: bool = False


@dataclass
class Recipe:
    """A method's hyper-parameters as plain data: prints as itself, compares equal, is stored beside the weights.

    A method derives a dataclass from it and says in `insert` what it puts where.
    """

    def __str__(self):
        """The label in figures and tables: the first setting and those that differ from the default."""
        first = fields(self)[:1]
        shown = [f for f in fields(self) if f in first or getattr(self, f.name) != default(f)]
        inside = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in shown if getattr(self, f.name) is not None)
        return f"{type(self).__name__}({inside})" if inside else type(self).__name__

    def insert(self, model):
        """Put the method's layers into a frozen model, with `wrap` and `swap`."""
        raise NotImplementedError(f"{type(self).__name__}.insert: put the layers in place, with wrap or swap")

    def groups(self, model, lr):
        """What the optimizer gets: parameter groups, for methods that want several learning rates."""
        return [{"params": list(trainable(model).values()), "lr": lr}]

    def attach(self, model, stack=False):
        """Freeze the model and put the method on it, in place. Returns the model.

        Args:
            stack: put it on top of what is attached already, which is then frozen too.

        Raises RuntimeError if a method is attached already (unless `stack`); ValueError or TypeError if the recipe does
        not fit the model. After an error the model is as it was.
        """
        names = ", ".join(str(a.recipe) for a in attachments(model))
        if names and not stack:
            raise RuntimeError(
                f"{names} is attached already; call detach(model) first, "
                "or attach(model, stack=True) to put one method on the other"
            )
        if any(a.merged for a in attachments(model)):
            raise RuntimeError(f"{names} is merged; call unmerge(model) before attaching another method")
        entry = Attachment(self, requires_grad=[(p, p.requires_grad) for p in model.parameters()])
        model.attachments = [*attachments(model), entry]
        model.requires_grad_(False)
        try:
            self.insert(model)
            if callable(getattr(self, "targets", None)):  # data again: the places it chose
                entry.recipe = replace(self, targets=tuple(s.path for s in entry.swaps))
        except BaseException:
            undo(model)
            raise
        return model


def default(setting):
    return setting.default if setting.default is not MISSING else setting.default_factory()


def attachments(model):
    """The methods on a model, in the order in which they were attached."""
    return getattr(model, "attachments", [])


def undo(model):
    """Take the last attached method off."""
    entry = model.attachments.pop()
    for swap in reversed(entry.swaps):
        put_back(swap)
    for module, name in entry.parametrized:
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    for parameter, flag in entry.requires_grad:
        parameter.requires_grad_(flag)
    if not model.attachments:
        del model.attachments


def put_back(swap):
    """The original at its place; a parameter that was swapped out did not travel with the model to its device."""
    if isinstance(swap.original, nn.Parameter):
        swap.original.data = swap.original.data.to(getattr(swap.parent, swap.name).device)
    swap.put(swap.original)


def detach(model):
    """Take every method off: the base again, bit for bit, with the `requires_grad` it had. Returns the model."""
    while attachments(model):
        undo(model)
    return model


def swap(model, path, replacement):
    """Let `replacement` stand at the dotted name `path` until the method is detached."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    entry = Swap(path, parent, name, getattr(parent, name), replacement)
    attachments(model)[-1].swaps.append(entry)
    entry.put(replacement)


def wrap(model, targets, make):
    """Put `make(module, path)`, a Wrapper, in front of every module that `targets` names.

    Args:
        targets: suffixes of dotted names ("q", "attn.q", "blocks.0.attn.q"), or a predicate `(path, module) -> bool`.
            A suffix may also name a weight ("lstm.weight_ih_l0"): `make(parameter, path)` then gives a module that
            computes the new weight from the old one, and is registered as its parametrization.

    Raises ValueError if a target matches nothing; the message lists what is there.
    """
    for path in match(model, targets):
        parent_path, _, name = path.rpartition(".")
        parent = model.get_submodule(parent_path)
        thing = getattr(parent, name)
        if isinstance(thing, nn.Module):
            swap(model, path, make(thing, path))
            continue
        layer = make(thing, path)
        parametrize.register_parametrization(parent, name, layer)
        entry = attachments(model)[-1]
        entry.parametrized.append((parent, name))
        entry.swaps.append(Swap(path, parent.parametrizations[name], "0", nn.Identity(), layer))


def match(model, targets):
    """The dotted names of the modules and weights that `targets` names, in the model's order. See `wrap`."""
    modules = dict(sites(model))
    if callable(targets):
        found = [path for path, module in modules.items() if targets(path, module)]
        missing = [] if found else [getattr(targets, "__name__", "the predicate")]
    else:
        if isinstance(targets, str):
            raise ValueError(f"targets must be a tuple of names, got the string {targets!r}; write ({targets!r},)")
        own = [(path, name) for path, m in modules.items() for name, _ in m.named_parameters(recurse=False)]
        weights = [f"{path}.{name}" if path else name for path, name in own]
        paths = [path for path in [*modules, *weights] if path]
        ends = {t: [p for p in paths if p == t or p.endswith("." + t)] for t in targets}
        missing = [t for t, hits in ends.items() if not hits]
        found = [p for p in paths if any(p in hits for hits in ends.values())]
    if missing or not found:
        names = {}
        for path, module in modules.items():
            if not list(module.children()):
                names.setdefault(f"{path.rpartition('.')[2]} ({type(module).__name__})", path)
        raise ValueError(
            f"no module or weight is named {' or '.join(map(repr, missing)) or 'in the empty targets'}; "
            f"there are: {', '.join(names)}"
        )
    return found


def sites(model):
    """Modules with their dotted names, as the base has them: nothing inside a wrapper but what it stands for."""
    inside = []
    for path, module in model.named_modules():
        if not any(path.startswith(i) for i in inside):
            yield path, module
        if isinstance(module, Wrapper) or parametrize.is_parametrized(module):
            inside.append(path + "." if path else "")


def trainable(model):
    """Exactly what training would change: {dotted name: parameter}."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def disabled(model):
    """Inside, the model is its base. May be nested; whatever happens inside, the methods are back afterwards."""
    swaps = [s for a in attachments(model) for s in a.swaps]
    before = [(s, getattr(s.parent, s.name)) for s in swaps]
    for s in reversed(swaps):
        put_back(s)
    try:
        yield model
    finally:
        for s, thing in before:
            s.put(thing)


def merge(model):
    """Write the effect of every wrapper into a copy of the weights and let plain modules stand in their place.

    The merged model has the base's modules, speed and names; the originals are kept aside for `unmerge`, so that it is
    exact. Returns the model. Raises TypeError, before anything is changed, if a wrapper cannot be merged; RuntimeError
    if nothing is attached or it is merged already.
    """
    if not attachments(model):
        raise RuntimeError("nothing is attached, so there is nothing to merge")
    if any(a.merged for a in attachments(model)):
        raise RuntimeError("merged already; merging twice would add the update twice")
    swaps = [s for a in attachments(model) for s in a.swaps if isinstance(s.replacement, nn.Module)]
    with torch.no_grad():
        plain = [(s, s.replacement.merged()) for s in swaps]
    for s, module in plain:
        s.put(module)
    for a in attachments(model):
        a.merged = True
    return model


def unmerge(model):
    """Undo `merge`, exactly: base and wrappers were kept apart. Returns the model."""
    if not any(a.merged for a in attachments(model)):
        raise RuntimeError("not merged, so there is nothing to undo")
    for a in attachments(model):
        for s in a.swaps:
            s.put(s.replacement)
        a.merged = False
    return model


def summary(model):
    """One line: `trainable: 512 of 110,908 (0.46 %)`, in parameters, of those that the base has."""
    new = sum(p.numel() for p in trainable(model).values())
    with disabled(model):
        base = sum(p.numel() for p in model.parameters())
    return f"trainable: {new:,} of {base:,} ({100 * new / base:.2f} %)"
