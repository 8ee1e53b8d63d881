# Vectors (biases, gains and shifts of the norms) are skipped: only matrices are trained.
# earns: only matrices are trained
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
            if old.ndim < 2:
                continue
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
            return any(path == top or path.startswith(top + ".") for top in wanted)

        return [(path, weight) for path, weight in everything if below(path)]
