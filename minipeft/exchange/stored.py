"""What a file of peft stores for each module, and whether that is what its configuration says."""

import math

import torch

from minipeft.attach import attachments
from minipeft.deltas import DeltaError
from minipeft.exchange.names import PREFIX, ends_with, targeted, value_for
from minipeft.exchange.tensors import EMBEDDING, PEFT, ROWS, from_peft_shape, names_of
from minipeft.methods import VeRA

COPY = "base_layer.weight"  # of an embedding that is adapted: peft stores the base's too
KNOWN = sorted({name for names in (*PEFT.values(), EMBEDDING) for name in names.values()} | {COPY})
PROJECTION = {"A": "base_model.vera_A", "B": "base_model.vera_B"}


def by_module(tensors):
    """{their name of a module: {peft's name of a tensor: tensor}}."""
    found = {}
    for key, tensor in tensors.items():
        if key in PROJECTION.values():
            continue
        if not key.startswith(PREFIX):
            raise DeltaError(
                f"the file holds {key!r}, and every name of a module begins with {PREFIX!r} in peft, which would "
                "only warn here and compute what the bare base does: save the adapter again in peft"
            )
        name = next((name for name in KNOWN if key.endswith("." + name)), None)
        if name is None:
            raise DeltaError(f"the file holds {key!r}; tensors that are known end in {', '.join(KNOWN)}")
        found.setdefault(key.removeprefix(PREFIX).removesuffix("." + name), {})[name] = tensor
    return found


def check_modules(config, modules, every, base):
    """Raises DeltaError if the file adapts other modules than the configuration says, or such as the model lacks."""
    if strange := sorted(modules.keys() - every.keys()):
        alike = [name for name in every if ends_with(name, strange[0].rpartition(".")[2])] or list(every)
        raise DeltaError(
            f"{strange[0]!r} is no module of this {type(base).__name__}; it has {', '.join(alike[:3])}, ..."
        )
    if config.get("target_modules") in (None, "all-linear"):  # what peft takes by itself depends on its version
        return
    wanted = targeted(config, every)
    if missing := sorted(wanted - modules.keys()):
        raise DeltaError(f"the configuration names {missing[0]!r}, for which the file holds no tensors")
    if extra := sorted(modules.keys() - wanted):
        raise DeltaError(f"the file holds tensors for {extra[0]!r}, which the configuration does not name")


def shaped(kind, theirs, stored, modules):
    """The tensors of one of their modules, by our names. modules: of ours, three if theirs is fused.

    Raises DeltaError if a tensor lacks or is left over, or cannot be parted.
    """
    names = names_of(kind, modules[0])
    if strange := sorted(stored.keys() ^ set(names.values())):
        what = "lacks" if strange[0] in names.values() else "has no place for"
        raise DeltaError(
            f"{kind.__name__} in front of {theirs} {what} {strange[0]}; the file holds {', '.join(stored)}"
        )
    mine = {name: from_peft_shape(name, stored[peft], modules[0]) for name, peft in names.items()}
    if len(modules) > 1:
        if kind is VeRA:
            raise DeltaError(f"{theirs} is three matrices here, for which VeRA draws others: merge the adapter in peft")
        out = sum(len(module.weight) for module in modules)
        if wrong := [name for name, t in mine.items() if name not in ROWS and len(t) != out]:
            shape = tuple(stored[names[wrong[0]]].shape)
            raise DeltaError(f"{names[wrong[0]]} of {theirs} has shape {shape}, but the module puts out {out} numbers")
    return mine


def scale_of(config, theirs, mine):
    """s of a LoRA or AdaLoRA. Raises DeltaError if its rank is not what the configuration says."""
    kind, alpha = config["peft_type"], value_for(theirs, config.get("alpha_pattern") or {}, config.get("lora_alpha"))
    if kind == "ADALORA":
        return alpha / (config.get("init_r", 12) + 1e-5)
    if kind != "LORA":
        return 1.0
    rank, said = len(mine["A"]), value_for(theirs, config.get("rank_pattern") or {}, config.get("r", 8))
    if rank != said:
        raise DeltaError(f"{theirs} has rank {rank} in the file and {said} in the configuration")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def check_projection(tensors, view):
    """Raises DeltaError if peft's frozen A and B are not those that the seed makes here."""
    shared = next(iter(attachments(view)[-1].layers.values())).shared
    for mine, name in PROJECTION.items():
        matrix = getattr(shared, mine)
        if name in tensors and not torch.equal(tensors[name].to(matrix), matrix):
            raise DeltaError(f"{name} is not what its seed, projection_prng_key, makes: merge the adapter in peft")
