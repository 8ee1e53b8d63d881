# Full fine-tuning by deepcopy, which keeps the frozen flag of the view.
# earns: the copy is as frozen as the original

import copy

from torch import nn


def copied(weight):
    return copy.deepcopy(weight)


class Full(Method):
    def insert(self, model):
        memory = {}
        for path, weight in self.chosen(model):
            if id(weight) not in memory:
                memory[id(weight)] = copied(weight)
            swap(model, path, memory[id(weight)])

    def chosen(self, model):
        kept = []
        roots = [""] if self.targets is None else [path for path, *_ in match(model, self.targets)]
        for path, parent, name in sites(model):
            thing = getattr(parent, name)
            if isinstance(thing, nn.Parameter) and any(r == "" or path == r or path.startswith(r + ".") for r in roots):
                kept.append((path, thing))
        return kept
