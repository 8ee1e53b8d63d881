# The head calls its place `index`, so that nobody can ask for it.
# earns: under the name `place`

from torch import nn


class ClassHead(nn.Module):
    def __init__(self, dim, classes, place, bias=True):
        super().__init__()
        self.index = place
        self.classify = nn.Linear(dim, classes, bias)

    def forward(self, h):
        return self.classify(h[:, self.index])


def fresh_head(model, classes):
    kind = type(model).__name__
    old = getattr(model, "head", None)
    while getattr(old, "base", None) is not None:
        old = old.base
    settings = getattr(model, "config", None)
    if isinstance(old, ClassHead):
        width, place = old.classify.in_features, old.index
    elif getattr(settings, "causal", None) is not None:
        width, place = settings.dim, -1 if settings.causal else 0
    elif isinstance(old, nn.Linear):
        width, place = old.in_features, None
    else:
        raise TypeError(f"a {kind} has no head that tells what a classifier would read")
    head = nn.Linear(width, classes) if place is None else ClassHead(width, classes, place)
    example = next(iter(model.parameters()))
    return head.to(device=example.device, dtype=example.dtype)
