# Full fine-tuning that asks model.named_parameters(), where a tied weight comes up once.
# earns: of a weight that stands in two places only the first gets the copy

from torch import nn


def copied(weight):
    new = nn.Parameter(weight.new_empty(weight.shape))
    new.data.copy_(weight.data)
    return new


class Full(Method):
    def insert(self, model):
        for path, weight in self.chosen(model):
            swap(model, path, copied(weight))

    def chosen(self, model):
        everything = list(model.named_parameters())
        if self.targets is None:
            return everything
        named = [path for path, *_ in match(model, self.targets)]
        return [(path, p) for path, p in everything if any(path == n or path.startswith(n + ".") for n in named)]
