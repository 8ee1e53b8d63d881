"""Figures of training and of its results: curves, accuracy of methods in comparison, forgetting, memory."""

import math
from itertools import cycle
from statistics import mean

import numpy as np
from matplotlib.ticker import MaxNLocator

from minipeft.plots.style import (
    ACCURACY,
    DASHES,
    FROZEN,
    INK,
    LOSS,
    SPARE,
    bare,
    dash,
    hue,
    legend,
    mark,
    new,
    shades,
)

MEMORY = {"weights": FROZEN, "gradients": SPARE[0], "optimizer": SPARE[3], "activations": SPARE[4]}
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "bytes"))


def curves(histories, quantity="loss", ax=None, window=10):
    """Training curves. histories: {label: History}; quantity: "loss" or "accuracy"; smoothed over `window` steps."""
    ax = bare(ax or new())
    for (label, history), colour in zip(histories.items(), shades(histories), strict=True):
        values = np.array(getattr(history, quantity))
        over = min(window, len(values))
        smooth = np.convolve(values, np.ones(over) / over, "valid")
        marker = "o" if len(smooth) == 1 else ""
        ax.plot(np.arange(len(smooth)) + over, smooth, color=colour, ls=dash(label), marker=marker, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("training step")
    if quantity == "loss":
        loss_axis(ax)
    else:
        ax.set(ylabel=ACCURACY, ylim=(-0.03, 1.03))
    legend(ax)
    return ax


def loss_axis(ax):
    """Losses on a logarithmic axis, with plain numbers at it."""
    low, high = ax.dataLim.minposy, ax.dataLim.y1
    margin = 1.2 * (high / low) ** 0.06
    low, high = low / margin, high * margin
    ax.set(yscale="log", ylabel=LOSS, ylim=(low, high))
    choices = {10: (1, 1.5, 2, 3, 4, 6, 8), 100: (1, 2, 5), 10_000: (1, 3), math.inf: (1,)}
    steps = next(steps for factor, steps in choices.items() if high < factor * low)
    marks = [s * 10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high))) for s in steps]
    marks = [mark for mark in marks if low <= mark <= high]
    ax.set_yticks(marks, [f"{mark:g}" for mark in marks])
    ax.minorticks_off()


def forgetting(traces, axes=None, label="Full"):
    """Accuracy on the new task and retention of the old ones while training, an Axes for each of {title: traces}.

    A line for each seed. A trace is a list of (step, accuracy on the new task, accuracy on the pretraining mixture).
    """
    axes = np.atleast_1d(new(3 * len(traces), 2.5, columns=len(traces), sharey=True) if axes is None else axes)
    for (title, seeds), ax in zip(traces.items(), axes, strict=True):
        for i, trace in enumerate(seeds):
            steps, learned, retention = zip(*trace, strict=True)
            ax.plot(steps, learned, "-", color=hue(label), lw=1.3, label="new task" if i == 0 else None)
            ax.plot(steps, retention, "--", color=SPARE[0], lw=1.3, label="retention" if i == 0 else None)
        bare(ax).set_title(title, fontsize=10)
        ax.set_xlabel("training step")
        ax.set_ylim(-0.03, 1.03)
    axes[0].set_ylabel(ACCURACY)
    legend(axes[-1])
    return axes


def learned_and_forgotten(curves, base=None, ax=None):
    """Loss on old text against loss on new text, a line for each {label: [(learning rate, new, old), ...]}.

    base: (new, old) of the base alone, a grey dot.
    """
    ax = bare(ax or new(6.4, 4))
    spans = [max(axis) - min(axis) for axis in zip(*(p[1:] for points in curves.values() for p in points), strict=True)]
    places = cycle([((-7, 5), "right"), ((8, 3), "left"), ((0, -15), "center")])  # of the labels, by line
    for (label, points), colour, (offset, side) in zip(curves.items(), shades(curves), places, strict=False):
        _, learned, old = zip(*points, strict=True)
        ax.plot(learned, old, color=colour, ls=dash(label), **mark(label), label=label)
        told = []
        for rate, *point in points:  # one label where points lie on each other
            if all(max(abs(a - b) / s for a, b, s in zip(point, other, spans, strict=True)) > 0.05 for other in told):
                told.append(point)
                text = {"textcoords": "offset points", "fontsize": 9, "color": colour, "ha": side}
                ax.annotate(f"{rate:g}", point, offset, **text)
    if base:
        ax.plot(*base, "o", ms=8, color=FROZEN, label="base")
    ax.set_xlabel("loss on new text, nats (left: learned more)")
    ax.set_ylabel("loss on old text, nats\n(down: forgotten less)")
    ax.margins(0.12)
    legend(ax)
    return ax


def learning_rates(losses, ax=None, chosen=None):
    """Loss against learning rate, a line for each {label: {learning rate: loss}}.

    A ring marks the learning rate of each in `chosen`, {label: learning rate}, or the one with the least loss.
    """
    ax = bare(ax or new(7.5, 3.4))
    for (label, by_rate), colour in zip(losses.items(), shades(losses), strict=True):
        tried = sorted(by_rate)
        ax.plot(tried, [by_rate[rate] for rate in tried], color=colour, ls=dash(label), **mark(label), label=label)
        best = chosen[label] if chosen else min(tried, key=by_rate.get)
        ax.plot(best, by_rate[best], "o", ms=14, mfc="none", mec=INK, mew=1.2, zorder=4)
    ax.set_xscale("log")
    every = sorted({rate for by_rate in losses.values() for rate in by_rate})
    ax.set_xticks(every, [f"{rate:g}" for rate in every])
    loss_axis(ax)
    ax.set_xlabel(f"learning rate (ring: {'chosen' if chosen else 'the best'})")
    legend(ax, outside=True)
    return ax


def bars(values, ax=None, label=ACCURACY, colour=FROZEN):
    """A horizontal bar for each {label: number}, the number at its end; of a list the mean, and a dot for each.

    Where there are dots, the means stand in a column at the right, so that none is taken for the value of a dot.
    """
    ax = bare(ax or new(6.5, 0.6 + 0.36 * len(values)))
    column = max(np.max(value) for value in values.values()) if any(np.size(v) > 1 for v in values.values()) else None
    for y, value in enumerate(values.values()):
        several = np.atleast_1d(value)
        middle, top = several.mean(), several.max()
        ax.barh(y, middle, height=0.62, color=colour)
        if len(several) > 1:
            ax.plot(several, np.full(len(several), y), "o", ms=4, color=INK, alpha=0.6, clip_on=False)
        digits = 0 if top >= 100 or (middle.is_integer() and top > 1) else 1 if top >= 10 else 2
        text = f"{middle:,.{digits}f}"
        ax.annotate(
            text,
            (top if column is None else column, y),
            (9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    ax.set_yticks(range(len(values)), values)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.14)
    ax.set_xlim(0, 1.12 if label == ACCURACY else None)
    ax.set_xlabel(label)
    if ax.get_xlim()[1] > 1000:
        ax.xaxis.set_major_formatter("{x:,.0f}")
    return ax


def accuracy_by_size(found, ax=None, xlabel="", ylabel=ACCURACY):
    """Accuracy against a size, of the model or of the data: {method: {size: [one value per seed]}}.

    A line for each method, with the range over seeds. Sizes are placed as ratios, with a tick at each.
    """
    ax = bare(ax or new(6.5, 3.4))
    sizes = sorted({size for by_size in found.values() for size in by_size})
    for i, (label, colour) in enumerate(zip(found, shades(list(found)), strict=True)):
        x = [size * 1.02 ** (i - len(found) / 2) for size in found[label]]  # no range hides another
        values = found[label].values()
        middle = [mean(v) for v in values]
        ranges = [[m - min(v), max(v) - m] for m, v in zip(middle, values, strict=True)]
        look = {"capsize": 2, "lw": 1.5, "ls": dash(label), "label": label} | mark(label)
        ax.errorbar(x, middle, np.transpose(ranges), color=colour, **look)
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    legend(ax, outside=True)
    return ax


def interpolation(found, xlabels, axes=None):
    """Accuracy between deltas and beyond them, an Axes for each {title: {label: {place: [one value per seed]}}}.

    A line joins the means; a small dot stands for each seed. xlabels: what the places of each Axes are.
    """
    axes = np.atleast_1d(new(3.5 * len(found), 2.8, columns=len(found), sharey=True) if axes is None else axes)
    labels = list(dict.fromkeys(label for lines in found.values() for label in lines))
    looks = dict(zip(labels, zip(shades(labels), DASHES, strict=False), strict=True))
    for (title, lines), xlabel, ax in zip(found.items(), xlabels, axes, strict=True):
        for label, by_place in lines.items():
            colour, dashes = looks[label]
            ax.plot(list(by_place), [np.mean(v) for v in by_place.values()], color=colour, ls=dashes, label=label)
            for place, values in by_place.items():
                ax.plot([place] * len(values), values, ".", ms=4, color=colour, alpha=0.6)
        bare(ax).set_title(title, fontsize=10)
        ax.set_xlabel(xlabel)
        ax.set_ylim(-0.03, 1.03)
        legend(ax)
    axes[0].set_ylabel(ACCURACY)
    return axes


def pareto(rows, ax=None):
    """Accuracy and trainable parameters, one point for each method with the range over seeds.

    rows: dictionaries with `method`, `parameters`, `accuracy` (list over seeds), as `lab.compare` gives them.
    The names stand in columns outside, on the left for an accuracy of a half or less, tied to their points by lines.
    """
    ax = bare(ax or new(6.5, max(3.6, 1 + 0.17 * len(rows))))
    ax.axvspan(0, 1, color="#f4f4f4", zorder=0)  # points are inside, keys to the names outside
    rows = sorted(rows, key=lambda row: row["parameters"])
    sides = {"left": [], "right": []}
    for row, colour in zip(rows, shades([r["method"] for r in rows]), strict=True):
        values, y = np.array(row["accuracy"]), row["parameters"]
        x = values.mean().clip(values.min(), values.max())  # rounding may put it outside
        reach = [[x - values.min()], [values.max() - x]]
        ax.errorbar(x, y, xerr=reach, ls="none", color=colour, capsize=3, zorder=3, **mark(row["method"]))
        sides["right" if x > 0.5 else "left"].append((row["method"], x, y, colour))
    ax.set_yscale("log")
    ax.margins(y=0.05)
    ax.set_xlabel(f"{ACCURACY}, mean and range over seeds")
    ax.set_ylabel("trainable parameters")
    ax.figure.draw_without_rendering()  # now the layout has its sizes
    width, height = ax.bbox.size * 72 / ax.figure.dpi  # in points, like sizes of text
    room = {"left": 12, "right": 12}
    across = ax.get_xaxis_transform()  # x as data, y as a share of the height
    for side, chosen in sides.items():
        names = [ax.annotate(
            name, (0, 0), (7 if side == "right" else -7, 0), xycoords=across, textcoords="offset points",
            fontsize=9, color=INK, va="center", ha="left" if side == "right" else "right",
        ) for name, *_ in chosen]  # fmt: skip
        if names:
            room[side] = 50 + 72 / ax.figure.dpi * max(name.get_window_extent().width for name in names)
        sides[side] = chosen, names
    one = max(width - sum(room.values()), 40)  # so many points wide is the share 1
    for side, (chosen, names) in sides.items():
        column = 1 + 36 / one if side == "right" else -36 / one
        wanted = [ax.transAxes.inverted().transform(ax.transData.transform((x, y)))[1] for _, x, y, _ in chosen]
        places = spread(wanted, 11.5 / height, 0.01, 0.99)
        for (label, x, _, colour), name, start, end in zip(chosen, names, wanted, places, strict=True):
            name.xy = column, end
            ax.plot([x, column], [start, end], color=colour, lw=0.8, zorder=1, transform=across)
            ax.plot(column, end, color=colour, transform=across, **mark(label) | {"ms": 5})
    ax.set_xlim(-room["left"] / one, 1 + room["right"] / one)
    ax.set_xticks(np.linspace(0, 1, 6 if one > 120 else 3))
    ax.spines["bottom"].set_bounds(0, 1)
    return ax


def spread(wanted, gap, low, high):
    """Places (N,), in rising order, as near to the `wanted` ones as they can be and still `gap` apart.

    They stay between `low` and `high` if there is room.
    """
    steps = gap * np.arange(len(wanted))
    z = np.asarray(wanted) - steps  # may not fall: the least squares for that are the greatest of the least means
    n = range(len(z))
    z = np.array([max(min(z[j : k + 1].mean() for k in n[i:]) for j in n[: i + 1]) for i in n])
    return z.clip(low, max(low, high - gap * (len(wanted) - 1))) + steps


def unit_of(number):
    """(bytes, name) of the unit in which so many bytes are told."""
    return next((size, unit) for size, unit in UNITS if number >= size or size == 1)


def memory(costs, ax=None, shares=True):
    """Where the memory of a training step goes: a bar for each {label: `costs.Memory`}; behind it the total.

    Bars show shares, or all of them the same unit: then they are as long as what they stand for.
    """
    ax = bare(ax or new(7.5, 0.9 + 0.42 * len(costs)))
    size, unit = unit_of(max(cost.total for cost in costs.values()))
    width = 1.0 if shares else max(cost.total for cost in costs.values()) / size
    for y, cost in enumerate(costs.values()):
        left = 0.0
        for part, colour in MEMORY.items():
            long = getattr(cost, part) / (cost.total if shares else size)
            ax.barh(y, long, left=left, height=0.66, color=colour, edgecolor="white", label=part if y == 0 else None)
            if long > 0.06 * width:
                text = f"{long:.0%}" if shares else f"{long:.3g}"
                ax.text(left + long / 2, y, text, ha="center", va="center", fontsize=9, color=INK)
            left += long
        own, named = unit_of(cost.total)
        ax.text(left + 0.01 * width, y, f"{cost.total / own:.3g} {named}", va="center", fontsize=9, color=INK)
    ax.set_yticks(range(len(costs)), costs)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, width)
    ax.set_xlabel(f"memory of a training step ({'share' if shares else unit}; at the right the total)")
    legend(ax, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), columnspacing=1.2)
    return ax
