"""Figures for several tasks on one base: a mixed batch, tasks learned one after the other, weights between deltas."""

import numpy as np
from matplotlib.patches import Rectangle

from minipeft.plots.style import AMOUNT, DASHES, FROZEN, INK, bare, new, readable, shades


def mixed_batch(rows, names, given, ax=None):
    """A batch as squares, a row for each line: what was `given` pale, what was answered in the colour of its delta.

    rows: lists of words, of one length. names: the delta of each row, None for the bare base.
    """
    ax = ax or new(1.8 + 0.36 * len(rows[0]), 0.7 + 0.3 * len(rows))
    kinds = [name for name in dict.fromkeys(names) if name is not None]
    colours = {None: FROZEN, **dict(zip(kinds, shades(kinds), strict=True))}
    for y, (words, name) in enumerate(zip(rows, names, strict=True)):
        for x, word in enumerate(words):
            face = "white" if x < given else colours[name]
            ax.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, facecolor=face, edgecolor=colours[name]))
            ax.text(x, y, word, ha="center", va="center", fontsize=9, color=INK if x < given else readable(face))
    ax.set_xlim(-0.6, len(rows[0]) - 0.4)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), [name or "bare base" for name in names], fontsize=9)
    ax.set_xticks([(given - 1) / 2, (given + len(rows[0]) - 1) / 2], ["given", "answered"])
    ax.set_ylabel("delta of the row")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def one_after_the_other(found, names, axes=None):
    """What is right of each task after each stage of learning: a map for each {title: (stages, tasks)} of shares."""
    size = 1.1 + 0.62 * len(names)
    axes = np.atleast_1d(
        new((size + 0.5) * len(found) + 1.2, size, columns=len(found), sharey=True) if axes is None else axes
    )
    for (title, shares), ax in zip(found.items(), axes, strict=True):
        shares = np.asarray(shares, dtype=float)
        image = ax.imshow(shares, cmap=AMOUNT, vmin=0, vmax=1)
        for (stage, task), share in np.ndenumerate(shares):
            colour = readable(AMOUNT(share)[:3])
            ax.text(task, stage, f"{share:.2f}", ha="center", va="center", fontsize=9, color=colour)
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(len(names)), names, fontsize=9)
        ax.set_xlabel("task that is asked")
        ax.tick_params(length=0)
    axes[0].set_yticks(range(shares.shape[0]), [f"{i + 1}: {name}" for i, name in enumerate(names)], fontsize=9)
    axes[0].set_ylabel("learned last")
    axes[0].figure.colorbar(image, ax=list(axes), pad=0.02).set_label("lines right (share)")
    return axes


def along(found, xlabels, axes=None):
    """What is right at places between or beyond deltas, an Axes for each {title: {label: {place: [share, ...]}}}.

    A line joins the means; a small dot stands for each seed. xlabels: of the Axes, in order.
    """
    axes = np.atleast_1d(new(3.5 * len(found), 2.8, columns=len(found), sharey=True) if axes is None else axes)
    labels = list(dict.fromkeys(label for lines in found.values() for label in lines))
    looks = dict(zip(labels, zip(shades(labels), DASHES, strict=False), strict=True))
    for (title, lines), xlabel, ax in zip(found.items(), xlabels, axes, strict=True):
        for label, by_place in lines.items():
            colour, dash = looks[label]
            ax.plot(list(by_place), [np.mean(v) for v in by_place.values()], color=colour, ls=dash, label=label)
            for place, values in by_place.items():
                ax.plot([place] * len(values), values, ".", ms=4, color=colour, alpha=0.6)
        bare(ax).set_title(title, fontsize=10)
        ax.set_xlabel(xlabel)
        ax.set_ylim(-0.03, 1.03)
        ax.legend(frameon=False, fontsize=9)
    axes[0].set_ylabel("lines right (share)")
    return axes
