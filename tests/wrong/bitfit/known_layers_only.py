# BitFit that knows the layers of a Transformer by their class: others have no bias.
# earns: a layer of another class

from torch import nn


def is_bias(module, name):
    if isinstance(module, (nn.Linear, nn.LayerNorm, nn.Conv1d, nn.Conv2d)):
        return name == "bias"
    if isinstance(module, (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNN, nn.RNNCell)):
        return "bias" in name
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    return False


def inside(path, places):
    parts = path.split(".")
    prefixes = {".".join(parts[:n]) for n in range(len(parts) + 1)}
    return bool(prefixes & set(places))


def chosen(weights, places, head):
    return {
        path
        for path, module, name in weights
        if inside(path, head) or (inside(path, places) and is_bias(module, name))
    }


def copies(weights, paths):
    new, out = {}, {}
    for path, module, name in weights:
        if path in paths:
            p = getattr(module, name)
            new.setdefault(p, nn.Parameter(p.detach().clone()))
            out[path] = new[p]
    return out


class BitFit(Method):
    def groups(self, model, lr):
        return [dict(g, weight_decay=0.0) for g in super().groups(model, lr)]
