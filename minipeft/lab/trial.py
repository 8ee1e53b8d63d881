"""One trial: a base, a seed, a method, a task and settings go in; numbers and a curve come out.

The order in which random numbers are drawn is the same everywhere: the seed, then the base, then attaching, then data.
"""

from functools import cache
from itertools import pairwise

import torch

from minipeft import deltas
from minipeft.attach import detach, trainable
from minipeft.bases import base as shipped
from minipeft.methods import Pfeiffer
from minipeft.tasks import Few, Mixture, task
from minipeft.training import RECIPE, VALIDATION, evaluate, fit

POINTS = 25  # on a stored curve
SOURCE_LR = 1e-2  # of the adapters that a fusion fuses; for Pfeiffer(size=16), .01 and .03 are as good


def adapt(method, goal, lr, seed, recipe=RECIPE, base="letters-d64", examples=None, sources=(), source_lr=SOURCE_LR,
          on_step=None):  # fmt: skip
    """Train a method on a task from a fresh base: returns the view and its History.

    seed: draws the start, the data and, with `examples`, which examples there are.
    examples: train on so many examples of the task instead of new ones at every step.
    sources: for a fusion, the names of tasks whose adapters it fuses; these are trained first, with the same seed and
        the learning rate `source_lr`.
    on_step: called as `on_step(view, step)` after each step.

    Raises FloatingPointError if training diverges.
    """
    adapters = [adapter(method.size, source, source_lr, seed, recipe, base) for source in sources]
    torch.manual_seed(seed)
    view = method.attach(started(goal, base))
    if adapters:
        method.fill(view, adapters)
    given = sets(goal, examples, seed)[0]
    after = on_step and (lambda step: on_step(view, step))
    history = fit(view, given, lr=lr, seed=seed, device="cpu", progress=False, on_step=after, **recipe.settings())
    return view, history


def started(goal, base):
    """The model that a method is attached to: the shipped base, or what the task makes of it."""
    return goal.start(shipped(base)) if hasattr(goal, "start") else shipped(base)


def sets(goal, examples, seed):
    """What to train on, what chooses learning rates and what is reported: three tasks.

    A task of letters is endless, so its last two differ by the seed with which they are drawn alone.
    """
    if hasattr(goal, "sets"):
        return goal.sets(examples, seed)
    return goal if examples is None else Few(goal, examples, seed), goal, goal


@cache
def adapter(size, source, lr, seed, recipe, base):
    """An adapter for a fusion, trained on a task of its own."""
    return deltas.delta_of(adapt(Pfeiffer(size=size), task(source), lr, seed, recipe, base)[0])


def trial(method, goal, lr, seed, recipe=RECIPE, base="letters-d64", examples=None, sources=(), source_lr=SOURCE_LR,
          look=None, watch=None, every=25):  # fmt: skip
    """One run of training, as a dictionary:

    parameters   trained
    accuracy     exact match on 1,000 unseen examples of the task; loss: there, in nats
    validation   loss on 1,000 other unseen examples; it chooses learning rates and is not reported
    retention    accuracy on what the base was pretrained on, with the method attached; None with a fresh head
    restored     is the detached base the same, bit for bit?
    reached      the first step at which the mean accuracy of ten batches is .9, or None
    area         mean loss over all steps
    curve        loss, the means of 25 equal parts of the run
    training_accuracy   with `examples`: on the examples trained on

    A run that diverges has accuracy 0 and None for every loss, and `look` is not called.

    look, watch: functions at the top of a module, called as `look(view, base, goal)`; they return a dictionary. What
    `look` finds at the end joins the result; what `watch` finds after each `every` steps is the list `path`.
    """
    before = deltas.fingerprint(start := started(goal, base))
    training, choosing, reported = sets(goal, examples, seed)
    found, path = dict.fromkeys(("accuracy", "retention", "training_accuracy"), 0.0), []
    found |= dict.fromkeys(("loss", "validation", "reached", "area", "curve"))
    seen = {"path": path} if watch else {}

    def follow(view, step):
        if (step + 1) % every == 0:
            path.append({"step": step + 1} | watch(view, detach(view), goal))
            view.train()

    try:
        view, history = adapt(method, goal, lr, seed, recipe, base, examples, sources, source_lr, watch and follow)
        final, validation = evaluate(view, reported), evaluate(view, choosing, seed=VALIDATION)
        retained = retention(view, goal, method)
        own = examples and evaluate(view, training)
    except FloatingPointError:
        return found | {"parameters": size(method.attach(start)), "restored": True} | seen
    found |= {"parameters": size(view), "accuracy": final.accuracy, "loss": final.loss, "validation": validation.loss}
    found["retention"], found["training_accuracy"] = retained, own.accuracy if own else 0.0
    found["reached"] = first_step(history.accuracy)
    found["area"], found["curve"] = sum(history.loss) / len(history.loss), thinned(history.loss)
    found["restored"] = deltas.fingerprint(detach(view)) == before
    return found | seen | (look(view, detach(view), goal) if look else {})


def retention(view, goal, method):
    """Accuracy on what the base was pretrained on; None if a fresh head cannot tell."""
    known = goal.known() if hasattr(goal, "known") else Mixture()
    return None if isinstance(method.classes, int) else evaluate(view, known).accuracy


def size(view):
    return sum(p.numel() for p in trainable(view).values())


def first_step(accuracy, level=0.9, window=10):
    """The first step at which the mean of the last `window` reaches the level, or None."""
    for step in range(window, len(accuracy) + 1):
        if sum(accuracy[step - window : step]) >= level * window:
            return step
    return None


def thinned(values, points=POINTS):
    """The means of `points` equal parts, or of all values if there are fewer."""
    points = min(points, len(values))
    edges = [round(i * len(values) / points) for i in range(points + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
