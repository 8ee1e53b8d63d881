"""What a method of a view does to the modules of the other library, whose q, k and v may be one matrix."""

import math
import warnings
from dataclasses import dataclass

from torch import Tensor, nn

from minipeft.attach import attachments, detach
from minipeft.bases import is_turned
from minipeft.deltas import DeltaError
from minipeft.exchange.names import GPT2_FAMILY, by_their_name, family_of, is_conv1d
from minipeft.exchange.tensors import PEFT, joined, turned
from minipeft.methods import QLoRA, VeRA
from minipeft.methods.ia3 import IA3Input
from minipeft.methods.lora import LoRAWeight


@dataclass
class Update:
    """What a method does to one module.

    module: of ours, the first if theirs is made of three. tensors: by our names and in our shapes. scale: s of a LoRA.
    into: it rescales the input. turned: their module stores its weight as (in, out).
    """

    module: nn.Module
    tensors: dict[str, Tensor]
    scale: float = 1.0
    into: bool = False
    turned: bool = False

    @property
    def rank(self):
        return len(self.tensors.get("A", self.tensors.get("Q", ())))


def updates_of(adapted, delta, kind):
    """{their name of a module: Update}. Warns if the method was trained on rounded weights.

    Raises DeltaError if the other library has no place for something.
    """
    if isinstance(delta.method, QLoRA):
        warnings.warn(
            "QLoRA was trained on rounded weights, and its factors will be put on whatever base the file is opened "
            "with: on the base in full precision that is another model. For the same model, compress ΔW, which holds "
            "the rounding too (arithmetic.compress), or write the merged model",
            stacklevel=4,
        )
    base, layers, updates = detach(adapted), layers_of(adapted, delta), {}
    for theirs, ours in by_their_name(adapted).items():
        mine = [layers.pop(path, None) for path in ours]
        if any(mine):
            updates[theirs] = update(adapted, kind, theirs, mine, [base.get_submodule(path) for path in ours])
    if layers:
        raise DeltaError(f"{family_of(adapted).model} in transformers has no module for {', '.join(layers)}")
    return updates


def layers_of(adapted, delta):
    """{our name of a module: (the layer in front of it, what is stored of that)}, without a fresh head.

    A layer on the weight of a module counts as one in front of the module.
    """
    placed, found = attachments(adapted)[0].layers, {}
    if moved := [name for name in delta.tensors if not any(name.startswith(path + ".") for path in placed)]:
        raise DeltaError(f"{moved[0]} moved while training (a BatchNorm does that), and only a delta can hold it")
    for path, layer in placed.items():
        part = {n.removeprefix(path + "."): t for n, t in delta.tensors.items() if n.startswith(path + ".")}
        if isinstance(layer, LoRAWeight):
            path, _, weight = path.rpartition(".")
            module = detach(adapted).get_submodule(path)
            if weight != "weight" or not (isinstance(module, nn.Linear) or is_conv1d(module)):
                raise DeltaError(f"peft has no place for a LoRA on {weight!r} of {path!r}, a {type(module).__name__}")
            part = turned(part, module)
        if path != "head" or not delta.method.classes:
            found[path] = layer, part
    return found


def update(adapted, kind, theirs, mine, modules):
    """One Update from [(our layer, its tensors) or None], one for each of our modules that theirs is made of."""
    there = [pair for pair in mine if pair]
    into = any(isinstance(layer, IA3Input) for layer, _ in there)
    if len(modules) > 1 and (kind is VeRA or into):
        raise DeltaError(
            f"{kind.__name__} of q, k and v cannot be told of {theirs!r}, in which they are one matrix: compress it to "
            "a LoRA first (arithmetic.compress), or write the merged model"
        )
    scale = getattr(there[0][0], "scale", 1.0)
    parts = [pair and rescaled(pair[1], getattr(pair[0], "scale", 1.0) / scale) for pair in mine]
    tensors = {name: joined(name, [p and p[name] for p in parts], modules) for name in PEFT[kind]}
    gpt2 = family_of(adapted) is GPT2_FAMILY and is_turned(theirs)
    return Update(modules[0], tensors, scale, into, turned=gpt2 or is_conv1d(modules[0]))


def rescaled(part, factor):
    """The same update for a scale s that is `factor` times smaller."""
    return part if math.isclose(factor, 1, rel_tol=1e-8) else part | {"B": part["B"] * factor}
