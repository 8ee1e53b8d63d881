# BitFit that takes a vector for a bias if the word is in its name.
# earns: name only contains the word

import torch
from torch import nn


def is_bias(module, name):
    match module:
        case nn.RNNBase() | nn.RNNCellBase():
            return not name.startswith("weight")
        case nn.MultiheadAttention():
            return name == "in_proj_bias"
        case _:
            return "bias" in name and getattr(module, name).ndim == 1


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
    return [path for path, module, name in weights if inside(path, head) or (is_bias(module, name) and inside(path, places))]


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
