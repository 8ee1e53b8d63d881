# A right solution in other words.
import torch
from torch import nn

from minipeft.attach import Method, swap
from minipeft.targets import match, sites



def starts_with(path, top):
    parts, head = path.split("."), top.split(".")
    return parts[: len(head)] == head


def copied(weight):
    with torch.no_grad():
        fresh = torch.empty_like(weight)
        fresh.copy_(weight)
    return nn.Parameter(fresh, requires_grad=True)


class Full(Method):
    def insert(self, model):
        pairs = self.chosen(model)
        one_of_each = list(dict.fromkeys(weight for _, weight in pairs))
        news = [copied(weight) for weight in one_of_each]
        for path, weight in pairs:
            number = next(i for i, w in enumerate(one_of_each) if w is weight)
            swap(model, path, news[number])

    def chosen(self, model):
        found = []
        tops = None if self.targets is None else {path for path, *_ in match(model, self.targets)}
        for path, parent, name in sites(model):
            if name not in parent._parameters:
                continue
            if tops is None or any(starts_with(path, top) for top in tops):
                found.append((path, parent._parameters[name]))
        return found
