# BitFit that needs a bias to lie inside of its places and of the head alike.
# earns: with a head to train, the biases elsewhere are forgotten

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
    if head:
        return {path for path, _, _ in weights if inside(path, head)}
    return {path for path, module, name in weights if is_bias(module, name) and inside(path, places)}


def copies(weights, paths):
    new, found = {}, {}
    for path, module, name in weights:
        if path in paths:
            old = getattr(module, name)
            found[path] = new[old] = new[old] if old in new else nn.Parameter(old.detach().clone())
    return found


class BitFit(Method):
    def groups(self, model, lr):
        return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]
