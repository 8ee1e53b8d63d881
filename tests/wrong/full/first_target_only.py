# Full fine-tuning that looks at one target alone.
# earns: only one of several targets counts

from torch import nn


def copied(weight):
    return nn.Parameter(weight.detach() + 0)


class Full(Method):
    def insert(self, model):
        news = {}
        for path, weight in self.chosen(model):
            news.setdefault(weight, copied(weight))
            swap(model, path, news[weight])

    def chosen(self, model):
        flat = [(path, getattr(parent, name)) for path, parent, name in sites(model)]
        flat = [(path, thing) for path, thing in flat if isinstance(thing, nn.Parameter)]
        if self.targets is None:
            return flat
        root = match(model, self.targets)[0][0]
        return [(path, p) for path, p in flat if path == root or path.startswith(root + ".")]
