# BitFit that leaves the rate alone but sets a small decay.
# earns: the decay is small, not zero

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
    memo, found = {}, {}
    for path, module, name in weights:
        if path in paths:
            p = getattr(module, name)
            memo.setdefault(p, nn.Parameter(p.detach().clone()))
            found[path] = memo[p]
    return found


class BitFit(Method):
    def groups(self, model, lr):
        return [group | {"weight_decay": 0.01} for group in super().groups(model, lr)]
