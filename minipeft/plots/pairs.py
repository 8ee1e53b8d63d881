"""Two models on the same texts: what matters is the difference on each of them."""

import numpy as np

from minipeft.plots.style import GREY, INK, bare, new


def text_by_text(differences, ax=None, label="difference of the losses, nats"):
    """A row of dots for each {label: [a difference for each text]}; a tick is the mean, the line is no difference."""
    ax = bare(ax or new(8, 0.9 + 0.45 * len(differences)))
    ax.axvline(0, color=GREY, lw=1)
    for y, values in enumerate(differences.values()):
        ax.plot(values, np.full(len(values), y), "o", ms=5, color=INK, alpha=0.45, mew=0)
        ax.plot(np.mean(values), y, "|", ms=22, mew=2.5, color="#d55e00")
    ax.set_yticks(range(len(differences)), differences)
    ax.set_ylim(len(differences) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(label)
    return ax
