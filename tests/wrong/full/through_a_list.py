# Full fine-tuning whose copies are made by torch.tensor without a type: bfloat16 becomes the default type.
# earns: the copy is always in

import torch
from torch import nn


def copied(weight):
    return nn.Parameter(torch.tensor(weight.tolist()))


class Full(Method):
    def insert(self, model):
        pairs = self.chosen(model)
        fresh = {id(w): copied(w) for _, w in pairs}
        for path, w in pairs:
            swap(model, path, fresh[id(w)])

    def chosen(self, model):
        every = [(path, getattr(parent, name)) for path, parent, name in sites(model)]
        every = [pair for pair in every if isinstance(pair[1], nn.Parameter)]
        if self.targets is not None:
            tops = [path for path, _, _ in match(model, self.targets)]
            every = [(path, w) for path, w in every if any((path + ".").startswith(top + ".") for top in tops)]
        return every
