# The places come from model.named_parameters(): a tied weight is told once only, its second place stays frozen; names of wrappers are wrong.
# earns: only the first gets the copy
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
        everything = list(model.named_parameters())
        if self.targets is None:
            return everything
        wanted = [path for path, _, _ in match(model, self.targets)]

        def below(path):
            return any(path == top or path.startswith(top + ".") for top in wanted)

        return [(path, weight) for path, weight in everything if below(path)]
