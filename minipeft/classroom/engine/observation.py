"""Observations: what an exercise looks at, in a student's module and in the reference alike.

    observe = Observations()

    @observe("forward", "The update that is added to the base, s·B A x, is not the expected one.")
    def update(impl):  # the module → numbers, tensors, text, or lists and dictionaries of them
        ...

They stand from first things first to fine print: the first one that differs is told. Those of one group are worth a
point together.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Observation:
    """One thing to look at. `says` is a sentence that tells what a difference here means."""

    name: str
    group: str
    says: str
    look: Callable


class Observations(list):
    """The observations of an exercise, in order; called, it makes the decorator that adds one."""

    def __call__(self, group, says):
        def keep(look):
            self.append(Observation(look.__name__.replace("_", " ").strip(), group, says, look))
            return look

        return keep
