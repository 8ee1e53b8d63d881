"""The best learning rate, read between those that were tried."""

import numpy as np


def best_learning_rate(losses):
    """Where a parabola through the lowest of {learning rate: loss} and its two neighbours is lowest, all as logarithms.

    If the lowest loss is at the lowest or the highest learning rate, that one is returned: then try one beyond it.
    """
    tried = sorted(losses)
    least = tried.index(min(tried, key=losses.get))
    if not 0 < least < len(tried) - 1:
        return tried[least]
    near = tried[least - 1 : least + 2]
    square, slope, _ = np.polyfit(np.log(near), np.log([losses[lr] for lr in near]), 2)
    return float(np.exp(-slope / (2 * square)))
