"""A finite task whose inputs have been through a frozen model already: its features, computed once and stored."""

from dataclasses import replace

import torch

from minipeft.tasks import shuffled


class Stored:
    """What `trunk` makes of every example of a finite task; a head can be trained on that as on any task.

    goal: a task with `every()`. trunk: a function from what the task's batches hold to features, (B, T, d) for a head
    that reads one of T tokens.
    """

    def __init__(self, goal, trunk):
        self.goal, rows = goal, goal.every()
        with torch.no_grad():
            self.rows = replace(rows, tokens=trunk(rows.tokens))

    def __str__(self):
        return f"features of {self.goal}"

    def batch(self, size, generator):
        """`size` of them, drawn as the task itself draws its examples."""
        return shuffled(self.rows, size, generator)

    def every(self):
        return self.rows
