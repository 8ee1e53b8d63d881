# Full fine-tuning that reads `targets` by hand as names: an expression or a function is not understood.
# earns: `targets` may be

from torch import nn


def copied(weight):
    return nn.Parameter(weight.detach().clone(), requires_grad=True)


class Full(Method):
    def insert(self, model):
        made = {}
        for path, weight in self.chosen(model):
            new = made.setdefault(id(weight), copied(weight))
            swap(model, path, new)

    def chosen(self, model):
        result = []
        for path, parent, name in sites(model):
            weight = getattr(parent, name)
            if not isinstance(weight, nn.Parameter):
                continue
            if self.targets is None:
                result.append((path, weight))
                continue
            parts = path.split(".")
            above = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
            if any(("." + a).endswith("." + t) for a in above for t in self.targets):
                result.append((path, weight))
        return result
