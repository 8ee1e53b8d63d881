# Full fine-tuning that groups the places by their weight first, and then puts one copy in all of them.

import torch
from torch import nn


def copied(weight):
    fresh = torch.zeros_like(weight, requires_grad=False)
    fresh += weight.detach()
    return nn.Parameter(fresh)


class Full(Method):
    def insert(self, model):
        places = {}
        for path, weight in self.chosen(model):
            places.setdefault(weight, []).append(path)
        for weight, paths in places.items():
            new = copied(weight)
            for path in paths:
                swap(model, path, new)

    def chosen(self, model):
        places = [(path, getattr(parent, name)) for path, parent, name in sites(model)]
        roots = [()] if self.targets is None else [tuple(path.split(".")) for path, *_ in match(model, self.targets)]
        return [
            (path, thing)
            for path, thing in places
            if isinstance(thing, nn.Parameter)
            and any(tuple(path.split("."))[: len(root)] == root for root in roots)
        ]
