# BitFit whose optimizer takes everything that ends in bias, whether this view trains it or not.
# earns: the optimizer gets whatever is called `bias`

from torch import nn


def is_bias(module, name):
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return name[:5] == "bias_"
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    return name == "bias"


def inside(path, places):
    for place in places:
        if place == "" or path == place or path.startswith(f"{place}."):
            return True
    return False


def chosen(weights, places, head):
    paths = set()
    for path, module, name in weights:
        if inside(path, places) and is_bias(module, name):
            paths.add(path)
        elif inside(path, head):
            paths.add(path)
    return paths


def copies(weights, paths):
    by_id, found = {}, {}
    for path, module, name in weights:
        if path in paths:
            old = getattr(module, name)
            if id(old) not in by_id:
                by_id[id(old)] = nn.Parameter(old.data.clone())
            found[path] = by_id[id(old)]
    return found


class BitFit(Method):
    def groups(self, model, lr):
        biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
        return [{"params": biases, "lr": lr, "weight_decay": 0.0}]
