# Full fine-tuning of the layers that one thinks of: Linear and LayerNorm, not the embedding.
# earns: embeddings stay frozen

from torch import nn


def copied(weight):
    return nn.Parameter(weight.detach().clone())


class Full(Method):
    def insert(self, model):
        new = {}
        for path, weight in self.chosen(model):
            if weight not in new:
                new[weight] = copied(weight)
            swap(model, path, new[weight])

    def chosen(self, model):
        found = []
        for path, parent, name in sites(model):
            if isinstance(parent, (nn.Linear, nn.LayerNorm)) and isinstance(getattr(parent, name), nn.Parameter):
                found.append((path, getattr(parent, name)))
        if self.targets is None:
            return found
        named = [path for path, *_ in match(model, self.targets)]
        return [(path, p) for path, p in found if any(path == n or path.startswith(n + ".") for n in named)]
