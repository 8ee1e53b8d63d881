"""Reading a comparison: which method beats which, which are worth their numbers, what luck would do, what each costs.

methods: {name: (accuracies, one for each seed; trained numbers)}, which `found` makes of the rows of `compare`.
"""

import math
from itertools import combinations, product
from statistics import mean, median

import torch

from minipeft import costs
from minipeft.attach import trainable
from minipeft.bases import base
from minipeft.lab.trial import trial
from minipeft.lab.tuning import tune
from minipeft.mixing import MultiTask
from minipeft.views import merge


def tunings(tuned_methods, goals, lab):
    """{method: its Tuning}: how the learning rate of each was found, for all goals together."""
    jobs = [{"method": c.method} for c in tuned_methods]
    results = tune(lab, trial, jobs, over=[{"goal": goal} for goal in goals])
    return {str(c.method): result for c, result in zip(tuned_methods, results, strict=True)}


def found(rows):
    return {row["method"]: (row["accuracy"], row["parameters"]) for row in rows}


def by_size(rows):
    """{"method  trained numbers": accuracies}, the smallest method first: what `plots.bars` draws."""
    rows = sorted(rows, key=lambda row: row["parameters"])
    return {f"{row['method']}  {row['parameters']:,}": row["accuracy"] for row in rows}


def steps(rows):
    """{method: the median over seeds of the steps to 90 %, or None if half of the seeds never get there}."""
    reached = {row["method"]: median(step or math.inf for step in row["reached"]) for row in rows}
    return {method: None if steps == math.inf else round(steps) for method, steps in reached.items()}


def beats(x, y):
    """Is every accuracy in x above every accuracy in y?"""
    return min(x) > max(y)


def front(methods):
    """The methods that are worth their numbers.

    One is not if another is no worse in both (mean accuracy, trained numbers) and better in one.
    """
    worth = []
    for name, (x, n) in methods.items():
        others = [(mean(y), m) for other, (y, m) in methods.items() if other != name]
        if not any(y >= mean(x) and m <= n and (y > mean(x) or m < n) for y, m in others):
            worth.append(name)
    return worth


def by_luck(seeds):
    """How likely one of two equally good methods beats the other: two of all the orders that their seeds can have."""
    return 2 / math.comb(2 * seeds, seeds)


def decided(methods):
    """(pairs of methods in which one beats the other, all pairs)."""
    pairs = list(combinations([accuracies for accuracies, _ in methods.values()], 2))
    return sum(beats(x, y) or beats(y, x) for x, y in pairs), len(pairs)


def wins(x, y):
    """In how many pairs of one seed each x is above y."""
    return sum(a > b for a, b in product(x, y))


def table_of(methods):
    """Every method against every other, as lines of text: does the one in the row beat the one in the column?"""
    lines = ["beats " + "".join(f"{name:>6}" for name in methods)]
    for name, (x, _) in methods.items():
        cells = {other: "yes" if beats(x, y) else "no" if beats(y, x) else "open" for other, (y, _) in methods.items()}
        lines.append(f"{name:6}" + "".join(f"{cell:>6}" for cell in (cells | {name: ""}).values()))
    return "\n".join(lines)


def tried(yours, ours, *cases):
    """One sentence: does your function answer as ours in all cases, or where not? A case is a tuple of arguments."""
    for case in cases:
        try:
            answer = yours(*case)
        except NotImplementedError:
            return f"{yours.__name__}: not written yet"
        if answer != ours(*case):
            return f"{yours.__name__}{case} is {answer}, and should be {ours(*case)}"
    return f"{yours.__name__}: right in all {len(cases)} cases"


def prices(methods, goal, examples=8, repeats=60):
    """What each method costs, {name: {what: number, or True or False}}, as `plots.scorecard` takes it.

    Checkpoint: of a task. Memory: of a training step on so many `examples`, measured. Time: of a forward pass of one
    example, not merged, as a multiple of the base's. Merges: into plain weights. Shares a batch: can it be answered in
    one pass with examples of other tasks?
    """
    one, several = (goal.batch(n, torch.Generator().manual_seed(0)) for n in (1, examples))
    table = {}
    for method in methods:
        model = method.attach(base()).eval()
        times = costs.latency({"base": base(), "method": model}, one, repeats)  # they take turns
        table[str(method)] = {
            "trained numbers": sum(p.numel() for p in trainable(model).values()),
            "checkpoint, bytes": costs.delta_bytes(model),
            "memory,\nkB": costs.measure(model, several).total // 1000,
            "time,\n× base": times["method"][0] / times["base"][0],
            "merges": merges(model),
            "shares a batch": MultiTask({"it": model}).shares("it"),
        }
    return table


def merges(model):
    try:
        return merge(model) is not None
    except TypeError:
        return False
