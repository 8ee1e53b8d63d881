# BitFit whose place holds what stands directly in it, and nothing deeper.
# earns: only what stands directly in a place counts

from torch import nn


def is_bias(module, name):
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return name.startswith("bias_")
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    return name == "bias"


def inside(path, places):
    parent = path.rpartition(".")[0]
    return "" in places or path in places or parent in places


def chosen(weights, places, head):
    chosen_paths = {path for path, m, n in weights if is_bias(m, n) and inside(path, places)}
    return chosen_paths | {path for path, m, n in weights if inside(path, head)}


def copies(weights, paths):
    new = {}
    found = {}
    for path, m, n in weights:
        if path in paths:
            p = getattr(m, n)
            if p not in new:
                new[p] = nn.Parameter(p.clone().detach())
            found[path] = new[p]
    return found


class BitFit(Method):
    def groups(self, model, lr):
        return [dict(group, weight_decay=0) for group in super().groups(model, lr)]
