# Full fine-tuning that sets the copies as attributes and tells nobody.
# earns: the copies are put in place without `swap`

from torch import nn


def copied(weight):
    return nn.Parameter(weight.data.clone())


class Full(Method):
    def insert(self, model):
        chosen = {path for path, _ in self.chosen(model)}
        new = {}
        for path, parent, name in list(sites(model)):
            if path in chosen:
                old = getattr(parent, name)
                if id(old) not in new:
                    new[id(old)] = copied(old)
                setattr(parent, name, new[id(old)])

    def chosen(self, model):
        places = [(path, getattr(parent, name)) for path, parent, name in sites(model)]
        params = [(path, thing) for path, thing in places if isinstance(thing, nn.Parameter)]
        if self.targets is None:
            return params
        roots = [path for path, *_ in match(model, self.targets)]
        return [(path, p) for path, p in params if any(path == r or path.startswith(r + ".") for r in roots)]
