"""How alike vectors are, each to each: maps of numbers between −1 and 1."""

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator

from minipeft.plots.style import INK, SIGNED, new


def alike(found, name="virtual token", label="cosine similarity"):
    """A square map for each {title: (n, n)}, on one scale from −1 to 1; small ones show their numbers. A list of Axes.

    name: of what stands in rows and columns, counted from 1. label: what the numbers are.
    """
    n = max(len(values) for values in found.values())
    side = min(1.2 + 0.36 * n, 3.2)
    axes = np.atleast_1d(new(side * len(found) + 1, side + 0.4, columns=len(found), sharey=True))
    for ax, (title, values) in zip(axes, found.items(), strict=True):
        values = torch.as_tensor(values).detach().cpu().numpy()
        ends = (0.5, len(values) + 0.5)
        image = ax.imshow(values, cmap=SIGNED, vmin=-1, vmax=1, extent=(*ends, *ends[::-1]))
        for (i, j), value in np.ndenumerate(values if len(values) <= 6 else values[:0]):
            colour = "white" if abs(value) > 0.7 else INK
            ax.text(j + 1, i + 1, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(name)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(min(n, 8), integer=True))
        ax.tick_params(length=0)
    axes[0].set_ylabel(name)
    axes[0].figure.colorbar(image, ax=list(axes), pad=0.01).set_label(label)
    return list(axes)
