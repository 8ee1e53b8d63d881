# Full fine-tuning that takes two weights with equal numbers for one tied weight.
# earns: two weights that are equal become one

import torch
from torch import nn


def copied(weight):
    fresh = torch.empty_like(weight).copy_(weight.detach())
    return nn.Parameter(fresh.detach())


class Full(Method):
    def insert(self, model):
        seen = []
        for path, weight in self.chosen(model):
            twin = next((new for old, new in seen if old.shape == weight.shape and torch.equal(old, weight)), None)
            if twin is None:
                twin = copied(weight)
                seen.append((weight, twin))
            swap(model, path, twin)

    def chosen(self, model):
        weights = [(path, getattr(parent, name)) for path, parent, name in sites(model)]
        weights = [(path, p) for path, p in weights if isinstance(p, nn.Parameter)]
        if self.targets is None:
            return weights
        heads = {path for path, _, _ in match(model, self.targets)}
        return [(path, p) for path, p in weights if path in heads or any(path.startswith(h + ".") for h in heads)]
