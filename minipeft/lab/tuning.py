"""Choosing a learning rate, by the same protocol for everything that is compared.

Learning rates lie half a decade apart: ..., 0.001, 0.003, 0.01, 0.03, ... For each configuration

1. five of them, whole decades from 1e-4 to 1, are tried with one tuning seed;
2. the best one and its two neighbours are tried with three tuning seeds;
3. if the best of these is the lowest or the highest of those tried so, the next one is tried as well, until the best
   one lies between two worse ones; if it does so at once, the three are tried with a fourth seed.

So each configuration gets about sixteen runs. Tuning seeds, and the examples on which the runs are scored, are none of
those that are reported. "Best" is the lowest mean of log(validation loss + 0.001), or, where speed is compared, of the
log of the steps to 90 %. Of learning rates that come within a tenth of the best one, the one that learns soonest is
taken: that of the lowest mean loss while training.
"""

import math
from dataclasses import dataclass
from statistics import mean

SEEDS = (100, 101, 102, 103)
COARSE = (-8, -6, -4, -2, 0)  # in half decades: 1e-4 to 1
MOVES = 4  # how often the window may move on before the search gives up
TIE = 0.1


@dataclass(frozen=True)
class Tuning:
    """lr: the learning rate chosen. interior: were a lower and a higher one tried with as many seeds, and worse or no
    better? scores: {lr: mean log loss over all that was tried with it}. runs: how many it took. by: the loss's name."""

    lr: float
    interior: bool
    scores: dict[float, float]
    runs: int
    by: str = "validation"


def rate(k):
    """The k-th half decade, to one digit: 0.01, 0.03, 0.1."""
    return float(f"{10 ** (k / 2):.0e}")


def tune(lab, experiment, jobs, over=({},), by="validation"):
    """A Tuning for each job.

    experiment: takes `lr` and `seed`, and returns `validation`: a loss, or None if it diverged; and, if it likes,
        `area`: the mean loss while training.
    over: settings, such as several tasks; the learning rate is chosen for all of them together.
    by: another number of the results to make small: `area`, or `reached`, the steps to 90 %.
    """
    found = [{} for _ in jobs]  # {(k, seed): (score, area)}

    def run(wanted):
        """wanted: for each job a set of (k, seed); makes those that are missing, all jobs' at the same time."""
        new = [(i, k, s) for i, pairs in enumerate(wanted) for k, s in sorted(pairs - set(found[i]))]
        all_jobs = [jobs[i] | extra | {"lr": rate(k), "seed": s} for i, k, s in new for extra in over]
        results = iter(lab(experiment, all_jobs))
        for i, k, s in new:
            runs = [next(results) for _ in over]
            found[i][k, s] = mean(score(r[by], by) for r in runs), mean(r.get("area") or 100.0 for r in runs)

    run([{(k, SEEDS[0]) for k in COARSE} for _ in jobs])
    middles = [chosen(tried, COARSE, SEEDS[:1]) for tried in found]
    windows = [[k - 1, k, k + 1] for k in middles]
    seeds = [SEEDS[:3] for _ in jobs]
    run([pairs(*each) for each in zip(windows, seeds, strict=True)])
    for move in range(MOVES):
        for i, window in enumerate(windows):
            best = chosen(found[i], window, seeds[i])
            if best == window[0]:
                window.insert(0, best - 1)
            elif best == window[-1]:
                window.append(best + 1)
            elif move == 0:
                seeds[i] = SEEDS
        run([pairs(*each) for each in zip(windows, seeds, strict=True)])
    return [tuning(*each, len(over), by) for each in zip(found, windows, seeds, strict=True)]


def pairs(window, seeds):
    return {(k, s) for k in window for s in seeds}


def score(loss, by):
    """log(loss + .001): a loss of .001 nats is as good as none; one that diverged counts as 100.

    Of steps, their log; a run that does not arrive counts as 1,000.
    """
    if by == "reached":
        return math.log(loss or 1000)
    return math.log((100.0 if loss is None else min(loss, 100.0)) + 1e-3)


def scores_of(found, window, seeds):
    """{k: (mean score, mean area)}."""
    return {k: tuple(map(mean, zip(*(found[k, s] for s in seeds), strict=True))) for k in window}


def chosen(found, window, seeds):
    """The best of a window; of several that are as good, the one that learns soonest."""
    scores = scores_of(found, window, seeds)
    best = min(score for score, _ in scores.values())
    good = [k for k in window if scores[k][0] <= best + TIE]
    return min(good, key=lambda k: (scores[k][1], abs(k - good[len(good) // 2])))


def tuning(found, window, seeds, tasks, by):
    best = chosen(found, window, seeds)
    scores = {rate(k): round(score, 3) for k, (score, _) in scores_of(found, window, seeds).items()}
    return Tuning(rate(best), window[0] < best < window[-1], scores, len(found) * tasks, by)
