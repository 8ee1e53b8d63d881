"""Where a method's layers go: places of a model are found by name, and refused where a layer could not be right."""

import re

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from minipeft.attach import WeightWrapper, Wrapper, bottom, flat, frozen, place, put, swap, view

TRAINABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HEADS = {"head", "lm_head", "score", "classifier"}  # what "all-linear" leaves out, here and in transformers
STOCK = (nn.Linear, nn.Embedding, nn.Conv2d)  # what they compute is known: W x + b, E[i], W∗x + b


def wrap(model, targets, make, kinds=nn.Linear, layers=None):
    """Put `make(module, path)`, a Wrapper, in front of every module that `targets` names.

    Args:
        model: a view, as `Method.insert` gets it.
        targets: see `match`. Where it names a weight ("lstm.weight_ih_l0"), `make(parameter, path)` gives a module that
            computes the new weight from the old one.
        kinds: the classes of modules that the method knows; `nn.Parameter` among them for weights.
        layers: see `match`.

    Raises ValueError if a target matches nothing. TypeError if a module is of another kind, its numbers cannot be
    trained, or it makes something of its own of its weight, so that W + ΔW would not have the effect that is meant.
    """
    method = type(model._attachment.method).__name__
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    for path, parent, name in match(model, targets, layers):
        thing = getattr(parent, name)
        module = bottom(thing)
        if not isinstance(module, kinds):
            known = ", ".join("a named weight" if kind is nn.Parameter else kind.__name__ for kind in kinds)
            weights = module._parameters.items() if isinstance(module, nn.Module) else ()
            own = [f"'{path}.{n}'" for n, p in weights if p is not None and p.ndim > 1]
            cure = f", or name its weight, {' or '.join(own)}" if own and nn.Parameter in kinds else ""
            what = with_article(type(module).__name__)
            raise TypeError(f"{method} goes in front of {known}; {path!r} is {what}: leave it out of targets{cure}")
        weight = thing if isinstance(thing, nn.Parameter) else getattr(module, "weight", None)
        if weight is not None:
            check_trainable(method, path, weight)
        layer = make(thing, path)
        if isinstance(thing, nn.Parameter):
            reweight(model, path, layer)
            continue
        if isinstance(layer, WeightWrapper) and not stock(module):
            own = [f"{path}.{n}" for n, p in module.named_parameters() if p.ndim > 1] or ["none"]
            raise TypeError(
                f"{path!r}, a {type(module).__name__}, makes something of its own of its weight (a forward of its own, "
                f"a hook, max_norm or a parametrization); name the weight itself in targets: {', '.join(own)}"
            )
        swap(model, path, layer)


def with_article(name):
    """a Linear, an Embedding, an LSTM"""
    return f"a{'n' if name[0] in 'AEIO' or name[:2] in ('LS', 'RN') else ''} {name}"


def check_trainable(method, path, weight):
    """Raises TypeError if the weight holds numbers of a type that has no gradients: codes, 8-bit floats."""
    if weight.dtype not in TRAINABLE:
        raise TypeError(
            f"{path!r} holds {weight.dtype}, in which {method} cannot train: convert the model first, "
            "model.to(torch.bfloat16) for example, or take QLoRA on a model in full precision"
        )


def stock(module):
    """Does it compute with its weight just what PyTorch's own module of this kind does?"""
    forward = next((kind.forward for kind in STOCK if isinstance(module, kind)), None)
    changed = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    changed = changed or parametrize.is_parametrized(module) or getattr(module, "max_norm", None)
    return hasattr(module, "merged") or (type(module).forward is forward and not changed)


def match(model, targets, layers=None):
    """(path, parent, name) of what `targets` names, modules and weights, each once, in the model's order.

    Args:
        targets: a tuple of names, each the end of a dotted name ("q", "attn.q"), a whole one behind a dot
            (".blocks.0.attn.q"), or that of a weight ("lstm.weight_ih_l0"); or a text, a regular expression for whole
            names of modules; or "all-linear", every Linear but those of HEADS; or a predicate `(path, module) -> bool`.
        layers: indices, (0, 2), to take only what lies in these layers, as the first number in its name tells.

    Raises ValueError if a name matches nothing; the message lists what is there.
    """
    places, named = list(within(model, names(model))), not callable(targets) and not isinstance(targets, str)
    if callable(targets):
        tests = {getattr(targets, "__name__", "the predicate"): targets}
    elif targets == "all-linear":
        tests = {targets: lambda path, thing: isinstance(thing, nn.Linear) and not HEADS & {*path.split(".")}}
    elif isinstance(targets, str):
        tests = {targets: lambda path, thing: compiled(targets).fullmatch(path)}
    else:
        tests = {name: lambda path, thing, name=name: f".{path}".endswith("." + name) or path == name[1:]
                 for name in targets}  # fmt: skip
    hits = {name: [] for name in tests}
    for path, parent, name in places:
        thing = bottom(getattr(parent, name))  # whatever stands in front
        for label, test in tests.items():
            if (isinstance(thing, nn.Module) or named) and test(path, thing):
                hits[label].append(path)
    chosen = {path for paths in hits.values() for path in paths}
    if missing := [label for label, paths in hits.items() if not paths] or ([] if chosen else ["the empty targets"]):
        raise ValueError(nothing_named(missing, targets, places))
    if layers is not None:
        there = {number for path in chosen if (number := layer_of(path)) is not None}
        if strange := sorted(set(layers) - there):
            raise ValueError(f"no target lies in layer {strange[0]}; they lie in {', '.join(map(str, sorted(there)))}")
        chosen = {path for path in chosen if layer_of(path) in layers}
    return once(place for place in places if place[0] in chosen)


def compiled(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"targets={text!r} is no regular expression: {error}; names are given as a tuple") from None


def layer_of(path):
    """The first number in a dotted name, 3 in "blocks.3.attn.q"; None without one."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def nothing_named(missing, targets, places):
    single = ""
    if isinstance(targets, str) and targets != "all-linear":
        single = f" (a text is a regular expression for whole names; for the end of a name write ({targets!r},))"
    there = dict.fromkeys(
        f"{name} ({type(thing).__name__})"
        for _, parent, name in places
        if isinstance(thing := bottom(getattr(parent, name)), nn.Parameter) or not any(True for _ in thing.children())
    )
    named = " or ".join(map(repr, missing))
    return f"no module or weight is named {named}{single}; there are: {', '.join(there)}"


def sites(model):
    """(path, parent, name) of every module and weight below the model, named as if nothing were attached.

    A module that has several names is told by the first. A weight that stands in several modules is told for each.
    """
    return once(within(model, names(model)))


def within(model, places):
    """The places; while a method is being attached, those that it may change: inside its `places`, not in a fresh head.

    Raises ValueError if one of its `places` is no part of the model.
    """
    entry = vars(model).get("_attachment")
    if entry is None or entry.inserted:
        return list(places)
    places, wanted = list(places), entry.method.places
    parts = {path.removesuffix(f".{name}") for path, _, name in places if "." in path}
    parts |= {path for path, parent, name in places if isinstance(getattr(parent, name), nn.Module)}
    if strange := [name for name in wanted if name not in parts]:
        top = [name for name, _ in model.named_children()]
        raise ValueError(
            f"places names {strange[0]!r}, which is no part of {type(model).__name__}; its parts are {', '.join(top)}, "
            "and those below them, such as blocks.0"
        )
    fresh = ("head",) if entry.method.classes else ()
    return [place for place in places if inside(place[0], wanted or ("",)) and not inside(place[0], fresh)]


def inside(path, places):
    """Is this path one of the places, or does it lie below one? "" is the whole model."""
    return any(not place or path == place or path.startswith(place + ".") for place in places)


def names(model, prefix=""):
    """The same with all names of what has several."""
    module = bottom(model)
    for name, child in module._modules.items():
        if child is not None:
            yield prefix + name, module, name
            yield from names(child, f"{prefix}{name}.")
    for name, p in module._parameters.items():
        if p is not None:
            yield prefix + name, module, name


def once(places):
    """The first of all names of each module, and of each weight of a module."""
    found = {}
    for path, parent, name in places:
        thing = getattr(parent, name)
        found.setdefault(id(thing) if isinstance(thing, nn.Module) else (id(parent), name), (path, parent, name))
    return list(found.values())


def stacks(model, words=False):
    """[(path, part)] of every `begin` where the method being attached may put something in front of a sequence.

    A part of the model that has `begin` has `blocks` and `embed` too; see `table`. words: the method starts from
    tokens, so a part must have a vocabulary.

    Raises TypeError if no part has a beginning, or a vocabulary that is needed; ValueError if several have one and
    `places` does not say which.
    """
    method, kind = model._attachment.method, type(bottom(model)).__name__
    found = [(path, bottom(parent)) for path, parent, name in sites(model) if name == "begin"]
    if not found:
        raise TypeError(
            f"{type(method).__name__} stands before the tokens of a sequence: a model must have `begin`, with `blocks` "
            f"and `embed` beside it, as Transformer has; {kind} lacks them: take a method for weights, LoRA for example"
        )
    if len(found) > 1 and not method.places:
        where = [path.removesuffix(".begin") for path, _ in found]
        raise ValueError(
            f"{kind} has several sequences that {type(method).__name__} could stand before: {', '.join(where)}; "
            f"say which, places=({where[0]!r},), or name them all"
        )
    for path, part in found:
        if words and not (hasattr(part.embed, "token") and hasattr(part, "new_cache")):
            raise TypeError(
                f"{method} starts from tokens, but {path.removesuffix('begin').rstrip('.') or kind!r} does not read "
                "tokens on its own: leave out init, or the template"
            )
    return found


def table(part):
    """Vectors (m, d) of the kind that stand in this sequence; they tell width, type and scale. Of tokens, all."""
    embed = bottom(part.embed)
    return embed.token.weight if hasattr(embed, "token") else embed.table


def repeated(words, length, vocab):
    """The words over and over, (7, 3) → 7 3 7 3 7, cut to the length. Raises ValueError for one that is no token."""
    if beyond := [t for t in words if t >= vocab] or ([] if words else ["nothing"]):
        raise ValueError(f"init holds {beyond[0]}, but the vocabulary has the tokens 0 to {vocab - 1}")
    return torch.tensor([words[i % len(words)] for i in range(length)])


class Reweighted(Wrapper):
    """In front of a module that runs with other weights; `layers` makes each of them from the old one."""

    def __init__(self, base):
        super().__init__(base)
        self.layers = nn.ModuleDict()

    def __getattr__(self, name):
        value = super().__getattr__(name)
        return self.layers[name](value) if name in self._modules.get("layers", ()) else value

    def weights(self):
        return {name: getattr(self, name) for name in self.layers}

    def forward(self, *args, **kwargs):
        return functional_call(self.base, self.weights(), args, kwargs)

    def merged(self):
        plain = view(flat(self.base))
        for name, weight in self.weights().items():
            setattr(plain, name, frozen(weight))
        return plain


def reweight(model, path, layer):
    """Let the module that has the weight at `path` run with what `layer` makes of it."""
    owner, _, name = path.rpartition(".")
    if not owner:
        raise TypeError(f"{path!r} is a weight of the model itself: put the model into another, nn.Sequential(model)")
    above, last = place(model, owner)
    reader = getattr(above, last)
    while isinstance(reader, Wrapper) and not isinstance(reader, Reweighted):
        reader = reader.base  # below what stands in front of it already
    if not isinstance(reader, Reweighted):
        put(model, reader, reader := Reweighted(reader))
    reader.layers[name] = nn.Sequential(reader.layers[name], layer) if name in reader.layers else layer
    model._attachment.layers[path] = layer.train(model.training)
