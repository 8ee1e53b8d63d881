# BitFit with a table of classes and patterns, and places compared name by name.

import itertools

from torch import nn

OWN_NAMES = (("RNNBase", "bias_"), ("RNNCellBase", "bias_"), ("MultiheadAttention", "in_proj_bias"))


def is_bias(module, name):
    kinds = {kind.__name__ for kind in type(module).__mro__}
    for kind, own in OWN_NAMES:
        if kind in kinds:
            return name == own or (own.endswith("_") and name.startswith(own))
    return name == "bias"


def inside(path, places):
    def below(place):
        if place == "":
            return True
        pairs = itertools.zip_longest(path.split("."), place.split("."))
        return all(theirs is None or ours == theirs for ours, theirs in pairs)

    return True in map(below, places)


def chosen(weights, places, head):
    picked = dict.fromkeys(path for path, *_ in weights if inside(path, head))
    for path, *at in weights:
        if is_bias(*at) and inside(path, places):
            picked[path] = None
    return set(picked)


def copies(weights, paths):
    originals = {path: getattr(module, name) for path, module, name in weights}
    made = []
    result = {}
    for path in sorted(paths):
        mine = originals[path]
        for old, new in made:
            if old is mine:
                result[path] = new
                break
        else:
            result[path] = nn.Parameter(mine.data.detach().clone(), requires_grad=True)
            made.append((mine, result[path]))
    return result


class BitFit(Method):
    def groups(self, model, lr):
        groups = []
        for p in model.parameters():
            if p.requires_grad:
                groups.append(dict(params=[p], lr=lr, weight_decay=0))
        return groups
