"""Figures of subspaces: how much of what one run changed lies in what another one changed."""

import numpy as np
import torch

from minipeft.plots.style import AMOUNT, heatmap, new


def subspace_similarity(maps, xlabel="j: directions of the other run", ylabel="i: directions of the one run"):
    """φ(i, j) as a map for each {title: (n, n)}, all from 0 to 1. Rows and columns count from 1. A list of Axes."""
    axes = np.atleast_1d(new(2.7 * len(maps) + 0.9, 3.1, columns=len(maps), sharey=True))
    for ax, (title, values) in zip(axes, maps.items(), strict=True):
        image = heatmap(ax, torch.as_tensor(values).detach().cpu().numpy(), AMOUNT, 0, 1, first=1)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(xlabel, fontsize=9)
        ax.set_xticks(range(1, len(values) + 1))
        ax.set_yticks(range(1, len(values) + 1))
    axes[0].set_ylabel(ylabel, fontsize=9)
    axes[0].figure.colorbar(image, ax=list(axes), pad=0.01).set_label("φ: share of the directions in common")
    return list(axes)
