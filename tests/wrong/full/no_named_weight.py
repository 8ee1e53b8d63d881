# Only what lies below a named module is chosen: a target that names a weight itself trains nothing.
# earns: a target that is itself a weight is passed by
import torch
from torch import nn

from minipeft.attach import Method, swap
from minipeft.targets import match, sites


def copied(weight):
    return nn.Parameter(weight.detach().clone())


class Full(Method):
    def insert(self, model):
        made = {}
        for path, old in self.chosen(model):
            if id(old) not in made:
                made[id(old)] = copied(old)
            swap(model, path, made[id(old)])

    def chosen(self, model):
        everything = []
        for path, parent, name in sites(model):
            thing = getattr(parent, name)
            if isinstance(thing, nn.Parameter):
                everything.append((path, thing))
        if self.targets is None:
            return everything
        wanted = [path for path, _, _ in match(model, self.targets)]

        def below(path):
            return any(path.startswith(top + ".") for top in wanted)

        return [(path, weight) for path, weight in everything if below(path)]
