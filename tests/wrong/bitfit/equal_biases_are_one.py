# BitFit that takes two biases with equal numbers for one shared bias.
# earns: two biases that are equal become one

from torch import nn


def is_bias(module, name):
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return name.startswith("bias_")
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    return name == "bias"


def inside(path, places):
    return any(place in ("", path) or path.startswith(place + ".") for place in places)


def chosen(weights, places, head):
    biases = filter(lambda w: is_bias(w[1], w[2]) and inside(w[0], places), weights)
    heads = filter(lambda w: inside(w[0], head), weights)
    return {path for path, *_ in [*biases, *heads]}


def copies(weights, paths):
    known, new = {}, {}
    for path, module, name in weights:
        if path in paths:
            p = getattr(module, name)
            key = (tuple(p.shape), tuple(p.flatten().tolist()))
            if key not in known:
                known[key] = nn.Parameter(p.detach().clone())
            new[path] = known[key]
    return new


class BitFit(Method):
    def groups(self, model, lr):
        return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]
