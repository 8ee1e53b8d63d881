"""Figures that are tables: scorecards, decisions, a mixed batch, accuracy task by task, expected and found values."""

import math
import textwrap

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from minipeft.plots.boxes import box, say
from minipeft.plots.style import (
    ACCURACY,
    AMOUNT,
    FROZEN,
    INK,
    PALE,
    SIGNED,
    SPARE,
    grid,
    heatmap,
    hue,
    new,
    shades,
)

BETTER = LinearSegmentedColormap.from_list("better", ["#ffffff", "#7cc7ae"])


def scorecard(table, more=(), ax=None):
    """One row for each method, one column for each thing measured; in each column the better is the greener.

    table: {method: {column: number, True, False or None}}; a long name of a column is broken, unless it has a line
    break of its own; None was not measured and is grey. more: the columns of shares from 0 to 1, where more is better;
    elsewhere less is. Numbers that spread over more than a factor of ten are shaded by their logarithm.
    """
    columns = list(next(iter(table.values())))
    names = [name if "\n" in name else textwrap.fill(name, 11) for name in columns]
    ax = grid(ax or new(min(1.9 + 0.75 * len(columns), 9), 0.7 + 0.25 * len(table)), list(table), names)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for x, column in enumerate(columns):
        values = [row[column] for row in table.values()]
        for y, (value, share) in enumerate(zip(values, goodness(values, column in more), strict=True)):
            face = PALE if share is None else BETTER(share)
            box(ax, x, y, 1, 1, cell(value), face, "white", lw=1.5, color=INK)
    return ax


def cell(value):
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def goodness(values, more):
    """For each value 0, the worst, to 1, the best; None stays None."""
    known = [float(value) for value in values if value is not None]
    if more or not known:
        return [None if value is None else float(value) for value in values]
    scale = math.log if min(known) > 0 and max(known) > 10 * min(known) else float
    low, high = scale(min(known)), scale(max(known))
    if high == low:
        return [None if value is None else 1.0 for value in values]
    return [None if value is None else (high - scale(float(value))) / (high - low) for value in values]


def decision_tree(tree, ax=None):
    """Questions and where their answers lead, from left to right.

    tree: (question, {answer: tree}), or at the end (method, reason): the box then has the method's hue.
    """
    ax = ax or new(9, 0.2 + 0.62 * leaves(tree))
    wide = 0.64  # of a box; the rest of a step to the right, which is 1, is for the answers

    def draw(node, level, top):
        """Draw the node with its first leaf at `top`; returns its own height."""
        text, below = node
        if isinstance(below, str):
            box(ax, level, top - 0.36, wide, 0.72, text, hue(text.replace("³", "3")), FROZEN, weight="bold")
            say(ax, level + wide + 0.04, top, textwrap.fill(below, 30), align="left")
            return top
        ends, y = [], top
        for child in below.values():
            ends.append(draw(child, level + 1, y))
            y += leaves(child)
        middle = (ends[0] + ends[-1]) / 2
        box(ax, level, middle - 0.36, wide, 0.72, textwrap.fill(text, 20), PALE, FROZEN)
        for answer, end in zip(below, ends, strict=True):
            corner = level + wide + 0.05  # up or down to the height of the child, then right, below the answer
            path = [level + wide, corner, corner, level + 1], [middle, middle, end, end]
            ax.plot(*path, color=SPARE[1], lw=1.4, zorder=1)
            say(ax, (corner + level + 1) / 2, end - 0.04, answer, va="bottom")
        return middle

    draw(tree, 0, 0)
    ax.set(xlim=(-0.02, depth(tree) + wide + 1.0), ylim=(leaves(tree) - 0.5, -0.5))
    ax.axis("off")
    return ax


def leaves(tree):
    return 1 if isinstance(tree[1], str) else sum(leaves(child) for child in tree[1].values())


def depth(tree):
    return 0 if isinstance(tree[1], str) else 1 + max(depth(child) for child in tree[1].values())


def mixed_batch(rows, names, given, ax=None):
    """A batch, a row of squares for each example: what was `given` white, what was answered in its delta's colour.

    rows: lists of words, of one length. names: the delta of each row, None for the bare base.
    """
    ax = ax or new(1.8 + 0.36 * len(rows[0]), 0.7 + 0.3 * len(rows))
    grid(ax, [name or "bare base" for name in names], rows[0])
    kinds = [name for name in dict.fromkeys(names) if name is not None]
    colours = {None: FROZEN, **dict(zip(kinds, shades(kinds), strict=True))}
    for y, (words, name) in enumerate(zip(rows, names, strict=True)):
        for x, word in enumerate(words):
            face = "white" if x < given else colours[name]
            box(ax, x + 0.04, y + 0.06, 0.92, 0.88, word, face, colours[name])
    ax.set_xticks([given / 2, (given + len(rows[0])) / 2], ["given", "answered"])
    ax.set_ylabel("delta of the row")
    return ax


def accuracy_matrix(found, names, axes=None):
    """Accuracy on each task after each stage of training: a map for each {title: (stages, tasks)}."""
    size = 1.1 + 0.62 * len(names)
    if axes is None:
        axes = new(min(size * len(found) + 1.2, 9), size, columns=len(found), sharey=True)
    axes = np.atleast_1d(axes)
    for (title, accuracies), ax in zip(found.items(), axes, strict=True):
        image = heatmap(ax, np.asarray(accuracies, dtype=float), AMOUNT, 0, 1, "{:.2f}")
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(len(names)), names)
        ax.set_xlabel("evaluated on")
    stages = len(next(iter(found.values())))
    axes[0].set_yticks(range(stages), [f"{i + 1}: {name}" for i, name in enumerate(names)])
    axes[0].set_ylabel("after training on")
    axes[0].figure.colorbar(image, ax=list(axes), pad=0.02).set_label(ACCURACY)
    return axes


def differences(expected, yours):
    """Expected, yours, and yours − expected, as maps on one scale: what a check found. Arrays of one shape. Three Axes.

    A vector is a row; of more than two dimensions all but the last lie below each other.
    """
    maps = [np.atleast_2d(np.asarray(a, dtype=float)) for a in (expected, yours)]
    maps = [a.reshape(-1, a.shape[-1]) for a in maps]
    maps.append(maps[1] - maps[0])
    rows, columns = maps[0].shape
    limit = np.nanmax(np.abs(maps)) or 1.0
    width = min(max(0.28 * columns, 1.6), 2.6)
    axes = new(3 * width + 1.2, min(max(0.28 * rows, 0.6), 3.2) + 0.9, columns=3)
    for ax, values, title in zip(axes, maps, ("expected", "yours", "yours − expected"), strict=True):
        image = heatmap(ax, values, SIGNED, -limit, limit, aspect="auto")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("column", fontsize=9)
        ax.set_xticks(range(0, columns, -(-columns // 6)))
        ax.set_yticks(range(0, rows, -(-rows // 6)))
    axes[0].set_ylabel("row", fontsize=9)
    axes[0].figure.colorbar(image, ax=axes, label="value", shrink=0.9)
    return axes
