"""How a method is put on a model, written once for every method.

A method changes no model, it makes a *view*: new modules around the very same frozen numbers. Nothing has to be undone:

    adapted = LoRA(rank=4).attach(model)    `model` is as it was, whatever becomes of `adapted`
    detach(adapted)                         is `model` itself
    merge(adapted)                          makes one more view, of plain modules: see views.py

Attaching to a view stacks: the earlier methods are frozen too. targets.py finds by name where the layers go.
Move a model to its device and type before you attach; `views.move` moves a view with its base, `adapted.to` a copy.
"""

import copy
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from minipeft.checks import check_forwards, unwrapped
from minipeft.models.heads import head_for
from minipeft.settings import MethodSettings


class Wrapper(nn.Module):
    """A module that wraps a frozen one, `base`, and answers for it: `wrapper.heads` is `base.heads`.

    A method's layer derives from it, adds parameters under new names, and writes its equation in `forward`.
    """

    def __init__(self, base):
        super().__init__()
        self.base = base

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            base = super().__getattr__("base")
            return getattr(base if name in ("weight", "bias") else bottom(base), name)  # a wrapper's weight is adapted

    def stored(self):
        """What the adapter checkpoint (the "delta" file) stores of this layer, {name: tensor}."""
        return {name: t for name, t in self.state_dict(keep_vars=True).items() if not name.startswith("base.")}

    def merged(self):
        """A plain module that computes the same as this one. Raises TypeError where the mathematics allows none."""
        raise TypeError(f"{type(self).__name__} cannot be merged: it is not a change of the frozen weights alone")


class WeightWrapper(Wrapper):
    """A wrapper whose whole effect is W + ΔW. Its `weight` is that: what reads it is adapted too."""

    @property
    def weight(self):
        return self.base.weight + self.deltas().get("weight", 0)

    @property
    def bias(self):
        bias = self.base.bias
        return bias if bias is None else bias + self.deltas().get("bias", 0)

    def delta(self):
        raise NotImplementedError(f"{type(self).__name__}.delta: the change of the weight, shaped like base.weight")

    def deltas(self):  # {name: change} of the parameters that change; a layer that changes the bias adds it
        return {"weight": self.delta()}

    def merged(self):
        plain = view(flat(self.base))
        for name in self.deltas():
            setattr(plain, name, frozen(getattr(self, name)))
        return plain


def bottom(module):
    """The frozen module below however many wrappers."""
    while isinstance(module, Wrapper):
        module = module.base
    return module


def flat(module):
    """The module itself, or a plain one that computes the same if it is a wrapper or quantized."""
    return module.merged() if hasattr(module, "merged") else module


def frozen(tensor):
    return nn.Parameter(tensor.detach(), requires_grad=False)


def view(model, own=(), kept=()):
    """New modules, frozen, that share the model's memory; `own` and buffers are cloned, `kept` learn in both."""
    check_forwards(model)
    copies = {id(p): frozen(p) for p in model.parameters()} | {id(p): frozen(p.clone()) for p in own}
    copies |= {id(p): p for p in kept}
    for module in model.modules():
        loose = [*module._buffers.values(), *vars(module).values()]
        copies |= {id(t): t.detach().clone() for t in loose if isinstance(t, Tensor)}
        copies |= {id(d): type(d)() for d in loose if isinstance(d, dict) and not d}  # of hooks: deepcopy is slow there
    return copy.deepcopy(model, copies)  # the memo, {id: copy}: deepcopy takes these instead of copying


@dataclass
class Attachment:
    """What one `attach` did; `shared` has pairs with the same numbers: (parameter of the view, one of the base)."""

    method: "Method"
    base: nn.Module
    layers: dict[str, nn.Module | nn.Parameter] = field(default_factory=dict)  # {dotted name in the base: what is new}
    shared: list[tuple[nn.Parameter, nn.Parameter]] = field(default_factory=list)
    inserted: bool = False

    def __deepcopy__(self, memo):  # the copy of a view has numbers of its own, and the same base
        return Attachment(self.method, self.base, copy.deepcopy(self.layers, memo), inserted=True)


@dataclass(frozen=True)
class Method(MethodSettings):
    """A method and its settings, plain data. A method derives a dataclass from it; `insert` says what it puts where."""

    def attach(self, model, together=False):
        """A view of the model with the method on it. Raises ValueError or TypeError if it does not fit the model.

        together: what the model, a view itself, trains goes on learning, in every view of it.
        """
        model = unwrapped(model)
        adapted = view(model, kept=trainable(model).values() if together and attachments(model) else ())
        pairs = zip(adapted.parameters(), model.parameters(), strict=True)
        adapted._attachment = Attachment(self, model, shared=list(pairs))
        if self.classes:
            swap(adapted, "head", head_for(model, self.classes))
        self.insert(adapted)
        adapted._attachment.inserted = True
        if callable(getattr(self, "targets", None)):  # a function cannot be stored: the names that it chose can
            chosen = tuple("." + path for path in adapted._attachment.layers if path != "head" or not self.classes)
            adapted._attachment.method = replace(self, targets=chosen)
        return adapted

    def insert(self, model):
        """Put the method's layers into a frozen view, with `targets.wrap` or `swap`."""
        raise NotImplementedError(f"{type(self).__name__}.insert: put the layers in place, with wrap or swap")

    def groups(self, model, lr):
        """What the optimizer gets: parameter groups, for methods that want several learning rates."""
        return [{"params": list(trainable(model).values()), "lr": lr}]

    def regularizer(self, model):
        """What the method adds to the loss of a step."""
        return 0.0

    def after_step(self, model, step, steps):
        """Called after each step of the optimizer, of `steps` in all; the gradients are still there."""

    def folded(self):
        """This method as it is stored after training, without the parts that only training needs."""
        return self


def swap(model, path, new):
    """Put `new`, a module or a weight, at the dotted name `path` of a view."""
    parent, name = place(model, path)
    model._attachment.layers[path] = new
    if isinstance(new, nn.Parameter):
        setattr(parent, name, new)
    else:
        put(model, getattr(parent, name), new.train(parent.training))


def put(model, old, new):
    """Put the module `new` wherever `old` is: a module may have several names."""
    for module, name in [(m, name) for m in model.modules() for name, child in m._modules.items() if child is old]:
        setattr(module, name, new)


def place(model, path):
    """(module, name) of a dotted name in the base, whatever wrappers stand in front."""
    *above, name = path.split(".")
    parent = bottom(model)
    for part in above:
        parent = bottom(getattr(parent, part))
    return parent, name


def attachments(model):
    """The methods on a model, from the first to the last attached."""
    entry = vars(unwrapped(model)).get("_attachment")
    return [*attachments(entry.base), entry] if entry else []


def trainable(model):
    """Exactly what training would change: {dotted name: parameter}."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def detach(model, levels=None):
    """The model below the last `levels` methods, by default below all of them: the base. It was never touched."""
    entries = attachments(model)
    levels = len(entries) if levels is None else levels
    if not 0 <= levels <= len(entries):
        raise ValueError(f"{levels} methods cannot be taken off: there are {len(entries)} on the model")
    return entries[-levels].base if levels else unwrapped(model)
