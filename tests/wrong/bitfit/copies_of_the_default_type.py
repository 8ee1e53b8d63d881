# BitFit whose copies are made by torch.tensor, which has the default type.
# earns: a copy does not have the type

import torch
from torch import nn


def is_bias(module, name):
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return name.startswith("bias_")
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    return name == "bias"


def inside(path, places):
    return any(not place or f"{path}.".startswith(f"{place}.") for place in places)


def chosen(weights, places, head):
    biases = {path for path, module, name in weights if is_bias(module, name) and inside(path, places)}
    return biases.union(path for path, *_ in weights if inside(path, head))


def copies(weights, paths):
    new, there = {}, {}
    for path, module, name in weights:
        if path in paths:
            p = getattr(module, name)
            if p not in new:
                new[p] = nn.Parameter(torch.tensor(p.tolist()))
            there[path] = new[p]
    return there


class BitFit(Method):
    def groups(self, model, lr):
        return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]
