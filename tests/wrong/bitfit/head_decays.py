# BitFit that switches weight decay off for the biases alone; the weight of a new head decays.
# earns: Weight decay should be set to zero for what BitFit trains

from torch import nn


def is_bias(module, name):
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return name.startswith("bias")
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    return name == "bias"


def inside(path, places):
    return any(place == "" or (path + ".").startswith(place + ".") for place in places)


def chosen(weights, places, head):
    biases = [path for path, module, name in weights if is_bias(module, name) and inside(path, places)]
    of_the_head = [path for path, _, _ in weights if inside(path, head)]
    return set(biases) | set(of_the_head)


def copies(weights, paths):
    made = {}
    result = {}
    for path, module, name in weights:
        if path not in paths:
            continue
        original = getattr(module, name)
        if original not in made:
            made[original] = nn.Parameter(original.detach().clone())
        result[path] = made[original]
    return result


class BitFit(Method):
    def groups(self, model, lr):
        (group,) = super().groups(model, lr)
        vectors = [p for p in group["params"] if p.ndim == 1]
        matrices = [p for p in group["params"] if p.ndim > 1]
        groups = [{"params": vectors, "lr": lr, "weight_decay": 0.0}]
        return groups + ([{"params": matrices, "lr": lr}] if matrices else [])
