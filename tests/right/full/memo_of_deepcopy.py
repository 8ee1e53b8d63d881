# Full fine-tuning whose ties are kept by the memo of one deepcopy, and whose paths are walked upwards.

import copy

from torch import nn


def copied(weight):
    twin = copy.deepcopy(weight.detach())
    return nn.Parameter(twin, requires_grad=True)


class Full(Method):
    def insert(self, model):
        pairs = self.chosen(model)
        distinct = {id(weight): weight for _, weight in pairs}
        new = {key: copied(weight) for key, weight in distinct.items()}
        for path, weight in reversed(pairs):
            swap(model, path, new[id(weight)])

    def chosen(self, model):
        named = None if self.targets is None else {path for path, *_ in match(model, self.targets)}

        def wanted(path):
            while path:
                if path in named:
                    return True
                path = path.rpartition(".")[0]
            return False

        found = []
        for path, parent, name in sites(model):
            thing = getattr(parent, name)
            if isinstance(thing, nn.Parameter) and (named is None or wanted(path)):
                found.append((path, thing))
        return found
