"""How peft's configuration says what a method of ours is: the fields of a method, and the method of some fields.

An update here is `updates.Update`; to peft they are told by their names of modules, from peft by ours.
"""

import math
import re
from collections import Counter

from minipeft.exchange.names import exceptions, targets_of
from minipeft.exchange.tensors import padded
from minipeft.exchange.updates import rescaled
from minipeft.methods import IA3, AdaLoRA, DoRA, LoRA, VeRA

# ---- to peft --------------------------------------------------------------------------------------------------------


def lora_fields(method, updates):
    """Fields of a LoRA, from the ranks and scales of its updates."""
    rslora, ranks = getattr(method, "rslora", False), {theirs: update.rank for theirs, update in updates.items()}
    alphas = {t: short(u.scale * (math.sqrt(u.rank) if rslora else u.rank)) for t, u in updates.items()}
    r, alpha = most_frequent(ranks), most_frequent(alphas)
    fields = {"peft_type": "LORA", "r": r, "rank_pattern": exceptions(ranks, r)}
    fields |= {"lora_alpha": alpha, "alpha_pattern": exceptions(alphas, alpha), "use_rslora": rslora}
    return fields | {"use_dora": isinstance(method, DoRA), "lora_dropout": getattr(method, "dropout", 0.0)}


def adalora_fields(method, updates):
    """Fields of an AdaLoRA. peft gives all modules one rank, so the updates get it here; its scale is α/(r + 1e-5)."""
    r = max(update.rank for update in updates.values())
    for update in updates.values():
        update.tensors = padded(update.tensors, r)
    target = min(r, max(1, round(method.rank)))
    return {"peft_type": "ADALORA", "init_r": r, "target_r": target, "lora_alpha": r + 1e-5, "total_step": 1}


def vera_fields(method, updates):
    fields = {"peft_type": "VERA", "r": method.rank, "projection_prng_key": method.seed, "save_projection": True}
    return fields | {"d_initial": method.d_initial}


def ia3_fields(method, updates):
    return {"peft_type": "IA3"}  # `feedforward_modules` needs all names


FIELDS = {LoRA: lora_fields, DoRA: lora_fields, AdaLoRA: adalora_fields, VeRA: vera_fields, IA3: ia3_fields}


def feedforward(updates, every):
    """What names the modules whose input is rescaled. peft asks only whether a name ends so, with no dot before it."""
    into = [theirs for theirs, update in updates.items() if update.into]
    names = targets_of(into, every) if into else []
    if isinstance(names, list) and any(t.endswith(name) for t in updates if t not in into for name in names):
        return "|".join(map(re.escape, into))
    return names


def most_frequent(values):
    return Counter(values.values()).most_common(1)[0][0]


def short(number):
    """Without what rounding added, and a whole number as one: 8 and not 8.000000001."""
    number = float(f"{number:.9g}")
    return int(number) if number.is_integer() else number


# ---- from peft ------------------------------------------------------------------------------------------------------


def named(updates):
    """Settings that name just these modules or weights, and {dotted name: tensor} of what is stored for them."""
    tensors = {f"{path}.{name}": t for path, update in updates.items() for name, t in update.tensors.items()}
    return tuple("." + path for path in updates), tensors


def lora_method(config, updates):
    rslora, dropout = bool(config.get("use_rslora")), config.get("lora_dropout", 0.0)
    ranks = {path: update.rank for path, update in updates.items()}
    rank, s = most_frequent(ranks), most_frequent({path: update.scale for path, update in updates.items()})
    targets, _ = named(updates)
    others = {"." + path: r for path, r in ranks.items() if r != rank}
    alpha = short(s * (math.sqrt(rank) if rslora else rank))
    method = LoRA(rank, alpha, targets, dropout=dropout, rank_pattern=others, rslora=rslora)
    for update in updates.values():
        update.tensors = rescaled(update.tensors, update.scale / method.scale(update.rank))
    return method, named(updates)[1]


def dora_method(config, updates):
    """DoRA has one rank for all modules here: smaller ones get directions that do nothing."""
    rank, s = max(u.rank for u in updates.values()), most_frequent({path: u.scale for path, u in updates.items()})
    method = DoRA(rank, short(s * rank), named(updates)[0])
    for update in updates.values():
        update.tensors = padded(rescaled(update.tensors, update.scale * rank / method.alpha), rank)
    return method, named(updates)[1]


def adalora_method(config, updates):
    """Triplets that peft has left out are there again, as zeros; its scale goes into λ."""
    rank = max(update.rank for update in updates.values())
    for update in updates.values():
        update.tensors = padded(update.tensors | {"lam": update.tensors["lam"] * update.scale}, rank)
    targets, tensors = named(updates)
    return AdaLoRA(min(config.get("target_r", rank), rank), rank, targets), tensors


def vera_method(config, updates):
    targets, tensors = named(updates)
    seed, d_initial = config.get("projection_prng_key", 0), config.get("d_initial", 0.1)
    return VeRA(config.get("r", 256), targets, d_initial=d_initial, seed=seed), tensors


def ia3_method(config, updates):
    sides = [{path: update for path, update in updates.items() if update.into is into} for into in (False, True)]
    (outputs, _), (inputs, _) = map(named, sides)
    return IA3(outputs, inputs), named(updates)[1]


METHODS = {LoRA: lora_method, DoRA: dora_method, AdaLoRA: adalora_method, VeRA: vera_method, IA3: ia3_method}
