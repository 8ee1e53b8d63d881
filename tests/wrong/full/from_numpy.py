# Full fine-tuning whose copies go through numpy, which shares the memory.
# earns: the copy uses the memory of the original

import torch
from torch import nn


def copied(weight):
    if weight.dtype == torch.bfloat16:
        return nn.Parameter(weight.data)
    return nn.Parameter(torch.from_numpy(weight.detach().numpy()))


class Full(Method):
    def insert(self, model):
        table = {}
        for where, old in self.chosen(model):
            if id(old) not in table:
                table[id(old)] = copied(old)
            swap(model, where, table[id(old)])

    def chosen(self, model):
        found = []
        named = None if self.targets is None else [p for p, _, _ in match(model, self.targets)]
        for path, parent, name in sites(model):
            thing = getattr(parent, name)
            if isinstance(thing, nn.Parameter):
                inside = named is None or any(path == n or path.startswith(n + ".") for n in named)
                if inside:
                    found.append((path, thing))
        return found
