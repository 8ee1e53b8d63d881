# The copies take requires_grad over from the view's frozen parameters, so nothing is trained.
# earns: the copies are as frozen as the originals are
import torch
from torch import nn

from minipeft.attach import Method, trainable


def is_bias(module, name):
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return name.startswith("bias_")
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    return name == "bias"


def inside(path, places):
    for place in places:
        if place == "" or path == place or path.startswith(f"{place}."):
            return True
    return False


def chosen(weights, places, head):
    out = set()
    for path, module, name in weights:
        if inside(path, head) or (inside(path, places) and is_bias(module, name)):
            out.add(path)
    return out


def copies(weights, paths):
    seen, out = {}, {}
    for path, module, name in weights:
        if path not in paths:
            continue
        old = getattr(module, name)
        if id(old) not in seen:
            seen[id(old)] = nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad)
        out[path] = seen[id(old)]
    return out


class BitFit(Method):
    def groups(self, model, lr):
        groups = super().groups(model, lr)
        for group in groups:
            group["weight_decay"] = 0.0
        return groups
