"""A number for each attention head of a model, as a small map with named rows and columns."""

import numpy as np
import torch

from minipeft.plots.style import AMOUNT, heatmap, new


def heads(found, label, axes=None):
    """One map for each {title: (layers, heads)} of numbers from 0 to 1. label: what the colour means."""
    maps = {title: np.asarray(torch.as_tensor(values).detach().cpu(), dtype=float) for title, values in found.items()}
    layers, count = next(iter(maps.values())).shape
    if axes is None:
        axes = new((0.7 * count + 0.9) * len(maps) + 0.8, 0.55 * layers + 0.95, columns=len(maps), sharey=True)
    axes = np.atleast_1d(axes)
    for (title, values), ax in zip(maps.items(), axes, strict=True):
        image = heatmap(ax, values, AMOUNT, 0, 1, "{:.2f}", aspect="auto")
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(count), [f"head {head}" for head in range(count)])
        ax.set_yticks(range(layers), [f"layer {layer}" for layer in range(layers)])
    axes[0].figure.colorbar(image, ax=list(axes), pad=0.02).set_label(label)
    return axes
