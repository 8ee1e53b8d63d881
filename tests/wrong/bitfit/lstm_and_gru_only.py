# BitFit that thinks of LSTM and GRU, and not of the plain RNN, nor of the cells of an LSTM.
# earns: nn.RNN

from torch import nn


def is_bias(module, name):
    if isinstance(module, (nn.LSTM, nn.GRU, nn.GRUCell)):
        return name.startswith("bias_")
    if isinstance(module, nn.MultiheadAttention):
        return name.endswith("proj_bias")
    return name == "bias"


def inside(path, places):
    return any(p == "" or p == path or path.startswith(p + ".") for p in places)


def chosen(weights, places, head):
    result = set()
    for path, module, name in weights:
        if inside(path, places) and is_bias(module, name) or inside(path, head):
            result.add(path)
    return result


def copies(weights, paths):
    known = {}

    def fresh(p):
        if id(p) not in known:
            known[id(p)] = nn.Parameter(p.detach().clone())
        return known[id(p)]

    return {path: fresh(getattr(module, name)) for path, module, name in weights if path in paths}


class BitFit(Method):
    def groups(self, model, lr):
        groups = super().groups(model, lr)
        for group in groups:
            group["weight_decay"] = 0.0
        return groups
