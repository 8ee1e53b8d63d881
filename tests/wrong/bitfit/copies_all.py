# BitFit that copies every parameter that it is shown, chosen or not.
# earns: everything is copied, whatever was chosen

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
    return {p for p, m, n in weights if (is_bias(m, n) and inside(p, places)) or inside(p, head)}


def copies(weights, paths):
    new = {}
    for _, module, name in weights:
        old = getattr(module, name)
        new[old] = new.get(old, nn.Parameter(old.detach().clone()))
    return {path: new[getattr(module, name)] for path, module, name in weights}


class BitFit(Method):
    def groups(self, model, lr):
        return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]
