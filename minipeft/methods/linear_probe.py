"""Linear probing: only the head is trained, on what the frozen model computes. The least that adaptation can mean.

    y = W h + b            h (d): the frozen features; W (out, d) and b (out) are trained

It asks what the features already say about a task. Whatever a task needs that they do not say, no head can find. With
`classes` the head is a fresh one; without, a copy of the model's own head is trained.

Trainable parameters: (d+1)·out. Nothing stands in front of the model, so there is nothing to merge, inference costs
exactly the base, and training needs no gradient inside of it.

Sources: 1) Alain & Bengio 2016, arXiv:1610.01644.
Paper and library: the paper puts a probe behind every layer; here, as in most work on transfer, one stands behind the
last. peft has no such method, but trains a head beside any other through `modules_to_save`.
"""

from dataclasses import dataclass

from torch import nn

from minipeft.attach import Method, swap
from minipeft.targets import match, sites


@dataclass(frozen=True)
class LinearProbe(Method):
    """Train the head alone.

    Args:
        classes: a fresh head for so many classes, as with every method; without it a copy of the model's own head.
    """

    def insert(self, model):
        if self.classes:
            return  # the fresh head is there
        heads = [path for path, *_ in match(model, ("head",))]
        for path, parent, name in sites(model):
            weight = getattr(parent, name)
            if isinstance(weight, nn.Parameter) and any(path.startswith(f"{head}.") for head in heads):
                swap(model, path, nn.Parameter(weight.detach().clone()))
