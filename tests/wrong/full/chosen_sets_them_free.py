# Full fine-tuning that frees the weights where they stand as well as copying them.
# earns: the old weights are set free too

from torch import nn


def copied(weight):
    weight.requires_grad_(True)
    return nn.Parameter(weight.detach().clone())


class Full(Method):
    def insert(self, model):
        done = {}
        for path, weight in self.chosen(model):
            done[weight] = done[weight] if weight in done else copied(weight)
            swap(model, path, done[weight])

    def chosen(self, model):
        places = [(path, getattr(parent, name)) for path, parent, name in sites(model)]
        params = [(path, thing) for path, thing in places if isinstance(thing, nn.Parameter)]
        if self.targets is None:
            return params
        roots = [path for path, *_ in match(model, self.targets)]
        return [(path, p) for path, p in params if any(path == r or path.startswith(r + ".") for r in roots)]
