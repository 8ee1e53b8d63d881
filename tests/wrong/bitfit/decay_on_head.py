# The usual two groups: biases without decay, all else (the head's weight) with the optimizer's own decay.
# earns: the weight of the head decays
import torch
from torch import nn

from minipeft.attach import Method


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
            seen[id(old)] = nn.Parameter(old.detach().clone())
        out[path] = seen[id(old)]
    return out


class BitFit(Method):
    def groups(self, model, lr):
        biases, rest = [], []
        for name, p in model.named_parameters():
            if p.requires_grad:
                (biases if name.rpartition(".")[2].startswith("bias") or name.endswith("bias") else rest).append(p)
        groups = [{"params": biases, "lr": lr, "weight_decay": 0.0}]
        if rest:
            groups.append({"params": rest, "lr": lr})
        return groups
