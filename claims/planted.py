"""A change of known rank, planted in the base: how much of it does a method find again?

The teacher is the shipped base with random changes of low rank in some of its matrices. The student is the base with a
method attached, and it learns the teacher's logits on the pretraining mixture (`minipeft.lab.planting`).
"""

from minipeft.bases import base
from minipeft.lab.planting import distance, trained
from minipeft.methods.adalora import ranks
from minipeft.training import RECIPE, TEST, VALIDATION

DIVERGED = 100.0


def imitate(method, planted, lr, seed, recipe=RECIPE):
    """Train a student to imitate the teacher that `planted` describes, [(path, rank, size)].

    error        mean squared error of the logits on unseen examples, as a share of the bare base's; at most 100
    validation   the same on other examples; it chooses learning rates. None if training diverged
    ranks        with AdaLoRA, {path: rank} of what it kept
    """
    student, teacher = trained(method, {path: (rank, size) for path, rank, size in planted}, lr, seed, recipe)
    left = {name: distance(student, teacher, name) / distance(base(), teacher, name) for name in (TEST, VALIDATION)}
    if not all(value < DIVERGED for value in left.values()):  # nor is what is not a number
        return {"error": DIVERGED, "validation": None, "ranks": {}}
    found = {path: rank for path, rank in ranks(student).items() if rank}
    return {"error": left[TEST], "validation": left[VALIDATION], "ranks": found}
