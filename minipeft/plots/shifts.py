"""What a method adds to an activation, token by token: is it the same for all of them?"""

import numpy as np

from minipeft.plots.style import SIGNED, new


def common_share(change):
    """The share of the squared length of the rows (N, n) that their mean has: 1 if all rows are the same."""
    change = change.detach().double()
    return float(change.mean(0).square().sum() / change.square().sum(1).mean())


def token_changes(changes, words, axes=None):
    """A map for each {label: change (T, n)}: a row for each token, a column for each of the n numbers that changed.

    words: names of the T tokens. The colours of a map end at its largest change; above it stands the `common_share`.
    """
    axes = np.atleast_1d(
        new(4 * len(changes) + 1, 1 + 0.2 * len(words), columns=len(changes)) if axes is None else axes
    )
    for (label, change), ax in zip(changes.items(), axes, strict=True):
        values = change.detach().float().cpu().numpy()
        limit = float(abs(values).max()) or 1.0
        image = ax.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto")
        share = common_share(change) if values.any() else float("nan")
        ax.set_title(f"{label}: {share:.0%} the same for all", fontsize=10)
        ax.set_xlabel("number of the vector (index)")
        ax.tick_params(axis="y", length=0)
        ax.set_yticks(range(len(words)), words, fontsize=8)
        ax.spines[:].set_visible(False)
        ax.figure.colorbar(image, ax=ax, pad=0.02, fraction=0.05).set_label("change")
    axes[0].set_ylabel("token")
    return axes
