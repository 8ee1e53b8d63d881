# BitFit that trains the weight of the head and not its bias, unless a place holds it.
# earns: of the head only the weights are trained

import torch
from torch import nn


def is_bias(module, name):
    match module:
        case nn.RNNBase() | nn.RNNCellBase():
            return not name.startswith("weight")
        case nn.MultiheadAttention():
            return name == "in_proj_bias"
        case _:
            return name == "bias"


def inside(path, places):
    places = set(places)
    if "" in places:
        return True
    here = path
    while here:
        if here in places:
            return True
        here, _, _ = here.rpartition(".")
    return False


def chosen(weights, places, head):
    return [path for path, module, name in weights if (inside(path, head) and not is_bias(module, name)) or (is_bias(module, name) and inside(path, places))]


def copies(weights, paths):
    new = {}

    def copy_of(p):
        if p not in new:
            fresh = torch.zeros_like(p, requires_grad=False)
            fresh.add_(p.detach())
            new[p] = nn.Parameter(fresh)
        return new[p]

    wanted = (place for place in weights if place[0] in paths)
    return {path: copy_of(getattr(module, name)) for path, module, name in wanted}


class BitFit(Method):
    def groups(self, model, lr):
        groups = super().groups(model, lr)
        for group in groups:
            group.setdefault("weight_decay", 0.0)
        return groups
