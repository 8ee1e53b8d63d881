"""Figures for fine-tuning as such: where the memory goes, and what is learned and forgotten meanwhile."""

import numpy as np

from minipeft.plots.style import FROZEN, INK, SPARE, bare, hue, new

PARTS = {"weights": FROZEN, "gradients": SPARE[0], "optimizer": SPARE[3], "activations": SPARE[4]}
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "bytes"))


def memory(costs, ax=None):
    """Where the memory of a training step goes: shares, a bar for each {label: `costs.Memory`}; behind it the total."""
    ax = bare(ax or new(7.5, 0.9 + 0.42 * len(costs)))
    for y, cost in enumerate(costs.values()):
        left = 0.0
        for part, colour in PARTS.items():
            share = getattr(cost, part) / cost.total
            ax.barh(y, share, left=left, height=0.66, color=colour, edgecolor="white", label=part if y == 0 else None)
            if share > 0.06:
                ax.text(left + share / 2, y, f"{share:.0%}", ha="center", va="center", fontsize=8, color=INK)
            left += share
        size, unit = next((size, unit) for size, unit in UNITS if cost.total >= size or size == 1)
        ax.text(1.01, y, f"{cost.total / size:.3g} {unit}", va="center", fontsize=9, color=INK)
    ax.set_yticks(range(len(costs)), costs)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1)
    ax.set_xlabel("memory of a training step (share; behind it the total)")
    ax.legend(frameon=False, fontsize=9, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), columnspacing=1.2)
    return ax


def forgetting(traces, axes=None, label="Full"):
    """What is learned and what is kept while training, an Axes for each of {title: traces}, a line for each seed.

    A trace is a list of (step, share of the new task right, share of the old tasks right).
    """
    axes = np.atleast_1d(new(3.3 * len(traces), 2.5, columns=len(traces), sharey=True) if axes is None else axes)
    for (title, seeds), ax in zip(traces.items(), axes, strict=True):
        for i, trace in enumerate(seeds):
            steps, learned, kept = zip(*trace, strict=True)
            ax.plot(steps, learned, "-", color=hue(label), lw=1.3, label="new task" if i == 0 else None)
            ax.plot(steps, kept, "--", color=SPARE[0], lw=1.3, label="old tasks" if i == 0 else None)
        bare(ax).set_title(title, fontsize=10)
        ax.set_xlabel("training step")
        ax.set_ylim(-0.03, 1.03)
    axes[0].set_ylabel("lines right (share)")
    axes[-1].legend(frameon=False, fontsize=9)
    return axes
