# The new Linear reads as many numbers as the old one wrote.
# earns: reads the logits of the old one

import torch
from torch import nn


class ClassHead(nn.Module):
    def __init__(self, dim, classes, place, bias=True):
        super().__init__()
        self.place = place
        self.classify = nn.Linear(dim, classes, bias)

    def forward(self, h):
        token = h.select(1, self.place)
        return self.classify(token)


def fresh_head(model, classes):
    old = getattr(model, "head", None)
    while hasattr(old, "base"):
        old = old.base
    config = getattr(model, "config", None)
    if isinstance(old, ClassHead):
        head = ClassHead(old.classify.weight.shape[1], classes, old.place)
    elif config is not None and hasattr(config, "causal"):
        head = ClassHead(config.dim, classes, -1 if config.causal else 0)
    elif isinstance(old, nn.Linear):
        head = nn.Linear(old.out_features, classes)
    else:
        raise TypeError(f"{type(model).__name__} has no head to replace")
    some = next(model.parameters())
    return head.to(device=some.device, dtype=some.dtype)
