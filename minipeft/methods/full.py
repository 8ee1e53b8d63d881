"""Full fine-tuning: every weight of the model is trained. The yardstick that the other methods are measured with.

    W ← W − η·∂L/∂W        for every W of the model

Trainable parameters: all of them (or all below `targets`). Memory with Adam, in bytes for each in 32-bit floats:
4 weight + 4 gradient + 8 moments. Nothing to merge, no cost at inference; but every task is a copy of the model.
The base is kept beside the trained copy, so that `detach` gives it back bit for bit.

Large models want learning rates far smaller than the small methods do, where one of those would wreck what the model
knows; on the toy base the best rates lie within a factor of three of each other.
"""

from dataclasses import dataclass

from torch import nn

from minipeft.wrapping import Recipe, match, sites, swap


@dataclass(frozen=True)
class Full(Recipe):
    """Train every weight.

    Args:
        targets: names of modules or weights to train instead of all (see `wrapping.wrap`); None for the whole model.
    """

    targets: tuple[str, ...] | None = None

    def insert(self, model):
        below = [""] if self.targets is None else [path for path, *_ in match(model, self.targets)]
        copies = {}  # a weight that stands in two places (a tied head) is one weight in the copy too
        for path, parent, name in list(sites(model)):
            weight = getattr(parent, name)
            if isinstance(weight, nn.Parameter) and any(not b or path == b or path.startswith(b + ".") for b in below):
                if weight not in copies:
                    copies[weight] = nn.Parameter(weight.detach().clone())
                swap(model, path, copies[weight])
