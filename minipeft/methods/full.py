"""Full fine-tuning: every weight of the model is trained. The yardstick that the other methods are measured with.

    W ← W − η·∂L/∂W        for every W of the model

Trainable parameters: all of them (or all below `targets`). Memory with Adam, in bytes for each in 32-bit floats:
4 weight + 4 gradient + 8 moments. Nothing to merge, no cost at inference; but every task is a copy of the model.
The base stays beside the trained copy, so `detach` gives it back bit for bit.

Large models want learning rates far smaller than the small methods do, where one of those would wreck what the model
knows; on the toy base the best rates lie within a factor of three of each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from minipeft.attach import Method, swap, unwrapped
from minipeft.targets import check_trainable, match, sites


def copied(weight):
    """A trainable parameter that starts as this weight, with memory of its own."""
    return nn.Parameter(weight.detach().clone())


@dataclass(frozen=True)
class Full(Method):
    """Train every weight.

    Args:
        targets: names of modules or weights to train instead of all (see `targets.match`); None for the whole model.
    """

    targets: tuple[str, ...] | str | Callable | None = None

    def attach(self, model, together=False):
        for path, weight in self.chosen(unwrapped(model)):
            check_trainable("Full", path, weight)
        return super().attach(model, together)

    def insert(self, model):
        """`swap` copies in. A weight that stands in two places (a tied head) is one weight in the copy too."""
        copies = {}
        for path, weight in self.chosen(model):
            if weight not in copies:
                copies[weight] = copied(weight)
            swap(model, path, copies[weight])

    def chosen(self, model):
        """[(path, weight)] of the places (`sites`) to be trained: all, or what `targets` names (`match`) and below."""
        places = [(path, getattr(parent, name)) for path, parent, name in sites(model)]  # modules and weights
        weights = [(path, thing) for path, thing in places if isinstance(thing, nn.Parameter)]
        if self.targets is None:
            return weights
        named = [path for path, *_ in match(model, self.targets)]
        return [(path, weight) for path, weight in weights if any(f"{path}.".startswith(f"{n}.") for n in named)]
