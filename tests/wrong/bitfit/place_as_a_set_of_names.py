# BitFit that asks whether all names of a place occur in the path, wherever they stand.
# earns: a place is looked for anywhere in the path

from torch import nn


def is_bias(module, name):
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return name.startswith("bias_")
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    return name == "bias"


def inside(path, places):
    parts = set(path.split("."))
    return any(place == "" or set(place.split(".")).issubset(parts) for place in places)


def chosen(weights, places, head):
    paths = {path for path, module, name in weights if inside(path, places) and is_bias(module, name)}
    paths.update(path for path, _, _ in weights if inside(path, head))
    return paths


def copies(weights, paths):
    new = {}
    result = {}
    for path, module, name in weights:
        if path in paths:
            old = getattr(module, name)
            new[old] = new.get(old) if old in new else nn.Parameter(old.detach().clone())
            result[path] = new[old]
    return result


class BitFit(Method):
    def groups(self, model, lr):
        return [{**group, "weight_decay": 0.0} for group in super().groups(model, lr)]
