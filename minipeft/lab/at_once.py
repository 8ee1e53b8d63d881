"""Several tasks learned at once by one model: the control for tasks that are learned one after the other."""

import torch

from minipeft.tasks import Batch


class AtOnce:
    """Batches with as many examples of each task. Their words must tell the tasks apart (see `languages.Worded`)."""

    def __init__(self, *goals):
        self.goals = goals

    def batch(self, size, generator):
        """`size` new examples, drawn with `generator`; fewer if the tasks do not divide it."""
        parts = [goal.batch(size // len(self.goals), generator) for goal in self.goals]
        return Batch(torch.cat([part.tokens for part in parts]), torch.cat([part.targets for part in parts]))
