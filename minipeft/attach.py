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

    def stored(self):
        """What a delta keeps of this layer, {name: tensor}: what the layer of the folded method consists of."""
        return {name: t for name, t in self.state_dict(keep_vars=True).items() if not name.startswith("base.")}

    def merged(self):
        """A plain module that computes the same as this one. TypeError where the mathematics allows none."""
        raise TypeError(f"{type(self).__name__} cannot be merged: it is not a change of the frozen weights alone")


def bottom(module):
    """The frozen module below however many wrappers."""
    while isinstance(module, Wrapper):
        module = module.base
    return module


def flat(module):
    """The module, or, where it is a wrapper or stored in another form, a plain one that computes the same."""
    return module.merged() if hasattr(module, "merged") else module


class WeightWrapper(Wrapper):
    """A wrapper whose whole effect is W + ΔW; it tells ΔW, shaped like `base.weight`, in `delta()`.

    One that changes the bias too tells both in `deltas()`.
    """

    def delta(self):
        raise NotImplementedError(f"{type(self).__name__}.delta: the change of the weight, shaped like base.weight")

    def deltas(self):
        """The change of each of the base's parameters that changes, by its name."""
        return {"weight": self.delta()}

    def merged(self):
        base = flat(self.base)
        twin = copy.copy(base)  # shares everything with the base but what changes
        changed = {name: frozen(getattr(base, name) + change) for name, change in self.deltas().items()}
        twin._parameters = {**base._parameters, **changed}
        return twin


def frozen(tensor):
    return nn.Parameter(tensor.detach(), requires_grad=False)


@dataclass
class Swap:
    """At `parent.name` stands `replacement` instead of `original`.

    original: a module or a weight. replacement: of the same kind; or, for a weight, a module that computes the new
    weight from the old one and is registered as its parametrization (torch.nn.utils.parametrize).
    """

    path: str  # dotted name of the place in the base
    parent: nn.Module
    name: str
    original: nn.Module | nn.Parameter
    replacement: nn.Module | nn.Parameter

    def put(self, thing):
        """Let `thing` stand here. What was out of the model takes on its device and mode, which may have changed."""
        there = getattr(self.parent, self.name)
        if isinstance(self.original, nn.Module):
            for p in there.parameters():
                thing.to(p.device)
                break
            setattr(self.parent, self.name, thing.train(self.parent.training))
            return
        if parametrize.is_parametrized(self.parent, self.name):
            parametrize.remove_parametrizations(self.parent, self.name, leave_parametrized=False)
        weight = thing if isinstance(thing, nn.Parameter) else self.original
        weight.data = weight.data.to(there)
        setattr(self.parent, self.name, weight)
        if thing is not weight:
            parametrize.register_parametrization(self.parent, self.name, thing.to(there.device))

    def now(self):
        """What stands here."""
        if isinstance(self.original, nn.Parameter) and parametrize.is_parametrized(self.parent, self.name):
            return self.replacement
        return getattr(self.parent, self.name)

    def merged(self):
        """What computes the same as the replacement without its parts."""
        if isinstance(self.replacement, nn.Parameter):
            return self.replacement
        if isinstance(self.original, nn.Parameter):
            return frozen(self.replacement(self.original))
        return self.replacement.merged()


@dataclass
class Attachment:
    """What one `attach` did to a model: its method, its swaps, and what else to give back."""

    method: "Method"
    requires_grad: list[tuple[nn.Parameter, bool]]
    buffers: list[tuple[nn.Module, str, torch.Tensor]]  # with a copy: a BatchNorm counts on, frozen or not
    swaps: list[Swap] = field(default_factory=list)
    merged: bool = False
    disabled: bool = False


@dataclass(frozen=True)
class Method:
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

    def regularizer(self, model):
        """What the method adds to the loss of a step."""
        return 0.0

    def after_step(self, model, step, steps):
        """Called after each step, of `steps` in all, of the optimizer; the gradients are still there."""

    def folded(self):
        """The method of what is left after training, without the parts that only training needs."""
        return self

    def attach(self, model, stack=False):
        """Freeze the model and put the method on it, in place. Returns the model.

        Args:
            stack: put it on top of what is attached already, which is then frozen too.

        Raises RuntimeError if a method is attached already (unless `stack`); ValueError or TypeError if the method does
        not fit the model. After an error the model is as it was.
        """
        names = ", ".join(str(a.method) for a in attachments(model))
        if names and not stack:
            raise RuntimeError(
                f"{names} is attached already; call detach(model) first, "
                "or attach(model, stack=True) to put one method on the other"
            )
        check(model, "attaching another method")
        flags = [(p, p.requires_grad) for p in model.parameters()]
        buffers = [(m, name, b.clone()) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
        entry = Attachment(self.plain(), flags, buffers)
        model.attachments = [*attachments(model), entry]
        model.requires_grad_(False)
        try:
            self.insert(model)
            if callable(getattr(self, "targets", None)):  # data again: the places it chose, by their whole names
                entry.method = replace(self, targets=tuple("." + s.path for s in entry.swaps))
        except BaseException:
            undo(model)
            raise
        return model

    def plain(self):
        """A copy that is nobody else's, with tuples for lists: as it will be read from disk."""
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: tuple(v) if isinstance(v, list) else copy.deepcopy(v) for k, v in settings.items()})


def default(setting):
    return setting.default if setting.default is not MISSING else setting.default_factory()


def attachments(model):
    """The methods on a model, in the order in which they were attached."""
    return getattr(model, "attachments", [])


def check(model, action, merged=False):
    """RuntimeError if the methods are disabled, or, unless that is allowed, merged."""
    for a in attachments(model):
        if a.disabled:
            raise RuntimeError(f"{a.method} is disabled here; leave `with disabled(model)` before {action}")
        if a.merged and not merged:
            raise RuntimeError(f"{a.method} is merged already; call unmerge(model) before {action}")


def undo(model):
    """Take the last attached method off."""
    entry = model.attachments.pop()
    for swap in reversed(entry.swaps):
        swap.put(swap.original)
    for parameter, flag in entry.requires_grad:
        parameter.requires_grad_(flag)
    for module, name, copied in entry.buffers:
        getattr(module, name).copy_(copied)
    if not model.attachments:
        del model.attachments


def detach(model):
    """Take every method off: the base again, bit for bit, with its buffers and `requires_grad`. Returns the model."""
    check(model, "detaching", merged=True)
    while attachments(model):
        undo(model)
    return model


def swap(model, path, replacement):
    """Let `replacement` stand at the dotted name `path` until the method is detached."""
    *above, name = path.split(".")
    parent = bottom(model)
    for part in above:
        parent = bottom(getattr(parent, part))
    entry = Swap(path, parent, name, getattr(parent, name), replacement)
    attachments(model)[-1].swaps.append(entry)
    entry.put(replacement)


def wrap(model, targets, make):
    """Put `make(module, path)`, a Wrapper, in front of every module that `targets` names.

    Args:
        targets: suffixes of dotted names ("q", "attn.q"), whole names behind a dot (".blocks.0.attn.q"), or a predicate
            `(path, module) -> bool`. A name may also be that of a weight ("lstm.weight_ih_l0"): `make(parameter, path)`
            then gives a module that computes the new weight from the old one.

    Raises ValueError if a target matches nothing; the message lists what is there. TypeError where a wrapper would have
    no effect, because the module around it reads the weights itself.
    """
    for path, parent, name in match(model, targets):
        thing = getattr(parent, name)
        if isinstance(thing, nn.Module) and isinstance(parent, nn.MultiheadAttention | nn.TransformerEncoderLayer):
            raise TypeError(
                f"{type(parent).__name__} reads the weights of {path!r} itself and would pass a wrapper by; "
                f"target the weight instead: '{path}.weight'"
            )
        swap(model, path, make(thing, path))


def match(model, targets):
    """(path, parent, name) of the modules and weights that `targets` names, in the model's order. See `wrap`."""
    places = list(sites(model))
    if callable(targets):
        modules = [place for place in places if isinstance(getattr(*place[1:]), nn.Module)]
        found = [place for place in modules if targets(place[0], getattr(*place[1:]))]
        missing = [] if found else [getattr(targets, "__name__", "the predicate")]
    else:
        if isinstance(targets, str):
            raise ValueError(f"targets must be a tuple of names, got the string {targets!r}; write ({targets!r},)")
        named = {t: [p for p, *_ in places if p == t[1:] or f".{p}".endswith("." + t)] for t in targets}
        missing = [t for t, hits in named.items() if not hits]
        found = [place for place in places if any(place[0] in hits for hits in named.values())]
    if missing or not found:
        there = dict.fromkeys(
            f"{name} ({type(getattr(parent, name)).__name__})"
            for _, parent, name in places
            if not holds_modules(parent, name)
        )
        raise ValueError(
            f"no module or weight is named {' or '.join(map(repr, missing)) or 'in the empty targets'}; "
            f"there are: {', '.join(there)}"
        )
    return found


def holds_modules(parent, name):
    thing = getattr(parent, name)
    return isinstance(thing, nn.Parameter) or any(True for _ in bottom(thing).children())


def sites(model, prefix=""):
    """(path, parent, name) of every module and weight below the model, named as if nothing were attached."""
    module = bottom(model)
    for name, child in module._modules.items():  # all names of a module that has several
        if child is not None and name != "parametrizations":
            yield prefix + name, module, name
            yield from sites(child, f"{prefix}{name}.")
    for name, _ in module.named_parameters(recurse=False):
        yield prefix + name, module, name


def trainable(model):
    """Exactly what training would change: {dotted name: parameter}."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def disabled(model):
    """Inside, the model is its base. May be nested; whatever happens inside, the methods are back afterwards."""
    entries = [a for a in attachments(model) if not a.disabled]
    before = [(s, s.now()) for a in entries for s in a.swaps]
    buffers = [(getattr(m, name), copied) for a in entries[:1] for m, name, copied in a.buffers]
    current = [buffer.clone() for buffer, _ in buffers]
    try:
        for a in entries:
            a.disabled = True
        for s, _ in reversed(before):
            s.put(s.original)
        for buffer, copied in buffers:
            buffer.copy_(copied)
        yield model
    finally:
        for s, thing in before:
            s.put(thing)
        for (buffer, _), values in zip(buffers, current, strict=True):
            buffer.copy_(values)
        for a in entries:
            a.disabled = False


def merge(model):
    """Write the effect of every wrapper into a copy of the weights and let plain modules stand in their place.

    The merged model has the base's modules, speed and names; the originals are kept aside for `unmerge`, so that it is
    exact. Returns the model. Raises TypeError, before anything is changed, if a wrapper cannot be merged; RuntimeError
    if nothing is attached or it is merged already.
    """
    if not attachments(model):
        raise RuntimeError("nothing is attached, so there is nothing to merge")
    check(model, "merging: a second time would add the update twice")
    with torch.no_grad():
        plain = [(s, s.merged()) for a in attachments(model) for s in a.swaps]
    for s, thing in plain:
        s.put(thing)
    for a in attachments(model):
        a.merged = True
    return model


def unmerge(model):
    """Undo `merge`, exactly: base and wrappers were kept apart. Returns the model."""
    if not any(a.merged for a in attachments(model)):
        raise RuntimeError("not merged, so there is nothing to undo")
    check(model, "unmerging", merged=True)
    for a in attachments(model):
        a.merged = False
    for s in [s for a in attachments(model) for s in a.swaps]:
        s.put(s.replacement)
    return model


def summary(model):
    """One line: `trainable: 512 of 110,908 (0.46 %)`, in parameters, of those that the base has."""
    new = sum(p.numel() for p in trainable(model).values())
    with disabled(model):
        base = sum(p.numel() for p in model.parameters())
    return f"trainable: {new:,} of {base:,} ({100 * new / base:.2f} %)"
