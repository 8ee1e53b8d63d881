# A right solution in other words.
import torch
from torch import nn

from minipeft.attach import Method, trainable


RECURRENT = nn.RNNBase, nn.RNNCellBase
OWN_NAMES = ((RECURRENT, lambda name: name[:5] == "bias_"), (nn.MultiheadAttention, "in_proj_bias".__eq__))


def is_bias(module, name):
    return next((test(name) for kinds, test in OWN_NAMES if isinstance(module, kinds)), name == "bias")


def inside(path, places):
    dotted = path + "."
    return bool([1 for place in places if place == "" or dotted.startswith(place + ".")])


def chosen(weights, places, head):
    return [path for path, module, name in weights if inside(path, head) or inside(path, places) and is_bias(module, name)]


def twin(p):
    return nn.Parameter(torch.empty_like(p, requires_grad=False).copy_(p.data))


def copies(weights, paths):
    places = [(path, module._parameters[name]) for path, module, name in weights if path in set(paths)]
    first = {}
    for path, p in places:
        first.setdefault(id(p), (path, p))
    made = {key: twin(p) for key, (_, p) in first.items()}
    return dict((path, made[id(p)]) for path, p in places)


class BitFit(Method):
    def groups(self, model, lr):
        return [{**group, "weight_decay": 0} for group in super(BitFit, self).groups(model, lr)]
