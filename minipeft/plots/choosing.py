"""Figures for choosing a method: all that was measured on one sheet, and questions that lead to an answer."""

import math
import textwrap

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from minipeft.plots.style import FROZEN, INK, PALE, SPARE, bare, hue, new, readable

BETTER = LinearSegmentedColormap.from_list("better", ["#ffffff", "#7cc7ae"])


def scorecard(table, more=(), ax=None):
    """One row for each method, one column for each thing measured; in each column the better is the greener.

    table: {method: {column: number, True, False or None}}; a line break in a column's name is kept, None was not
    measured and is grey. more: the columns of shares from 0 to 1, where more is better; elsewhere less is. Numbers that
    spread over more than a factor of ten are shaded by their logarithm.
    """
    columns = list(next(iter(table.values())))
    ax = ax or new(1.9 + 0.75 * len(columns), 0.7 + 0.25 * len(table))
    for x, column in enumerate(columns):
        values = [row[column] for row in table.values()]
        for y, (value, share) in enumerate(zip(values, goodness(values, column in more), strict=True)):
            face = PALE if share is None else BETTER(share)
            ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white", lw=1.5))
            ax.text(x + 0.5, y + 0.5, cell(value), ha="center", va="center", fontsize=8.5, color=INK)
        ax.text(x + 0.5, -0.2, column, ha="center", va="bottom", fontsize=8.5, color=INK)
    ax.set(xlim=(0, len(columns)), ylim=(len(table), 0))
    ax.set_yticks([y + 0.5 for y in range(len(table))], table, fontsize=8.5)
    ax.set_xticks([])
    ax.tick_params(length=0)
    bare(ax).spines[:].set_visible(False)
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


def decisions(tree, ax=None):
    """Questions and where their answers lead, from left to right.

    tree: (question, {answer: tree}), or at the end (method, reason): the box then has the method's hue.
    """
    ax = ax or new(9.4, 0.2 + 0.62 * leaves(tree))
    deep = depth(tree)
    wide, gap = 0.72, 0.28  # of a box, and of the room for the answers behind it; together one step to the right

    def box(x, y, text, face, colour, weight="normal"):
        ax.add_patch(Rectangle((x, y - 0.36), wide, 0.72, facecolor=face, edgecolor=FROZEN, lw=1, zorder=2))
        style = {"ha": "center", "va": "center", "fontsize": 9, "color": colour, "weight": weight, "zorder": 3}
        ax.text(x + wide / 2, y, textwrap.fill(text, 24), **style)

    def draw(node, level, top):
        """Draw the node with its first leaf at `top`; returns its own height."""
        text, below = node
        if isinstance(below, str):
            face = hue(text)
            box(level, top, text, face, readable(face), "bold")
            ax.text(level + wide + 0.04, top, textwrap.fill(below, 34), va="center", fontsize=8.5, color=INK)
            return top
        ends, y = [], top
        for child in below.values():
            ends.append(draw(child, level + 1, y))
            y += leaves(child)
        middle = (ends[0] + ends[-1]) / 2
        box(level, middle, text, PALE, INK)
        for answer, end in zip(below, ends, strict=True):
            ax.plot([level + wide, level + 1], [middle, end], color=SPARE[1], lw=1.4, zorder=1)
            ax.text(
                level + wide + gap / 2, (middle + end) / 2, answer, ha="center", va="center", fontsize=8.5, color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=4,
            )  # fmt: skip
        return middle

    draw(tree, 0, 0)
    ax.set(xlim=(-0.02, deep + wide + 1.0), ylim=(leaves(tree) - 0.5, -0.5))
    ax.axis("off")
    return ax


def leaves(tree):
    return 1 if isinstance(tree[1], str) else sum(leaves(child) for child in tree[1].values())


def depth(tree):
    return 0 if isinstance(tree[1], str) else 1 + max(depth(child) for child in tree[1].values())
