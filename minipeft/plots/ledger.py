"""Figures of the ledger: effects with their intervals, what tuning does to a ranking, and bits stored."""

import textwrap

import numpy as np
from matplotlib.lines import Line2D

from minipeft.plots.style import AMOUNT, DASHES, FROZEN, GREY, INK, PALE, SPARE, bare, legend, new

TOLD = 2  # statements in one figure


def effects(by_statement, unit=""):
    """The effect under each variation with its 95 % interval, a panel for each of the first two statements.

    by_statement: {statement: {variation: something with size, low and high}}. A dot is filled where its interval does
    not hold 0. Returns the first Axes; the figure has them all.
    """
    shown = dict(list(by_statement.items())[:TOLD])
    rows = [len(found) for found in shown.values()]
    height = 0.35 * sum(rows) + 0.55 * len(shown) + 0.45
    axes = np.atleast_1d(new(6.5, height, rows=len(shown), sharex=True, height_ratios=rows))
    for ax, (statement, found) in zip(axes, shown.items(), strict=True):
        for y, effect in enumerate(found.values()):
            face = INK if effect.low > 0 or effect.high < 0 else "white"
            ax.plot([effect.low, effect.high], [y, y], color=INK, lw=1.5)
            ax.plot(effect.size, y, "o", ms=7, mfc=face, mec=INK)
        bare(ax).axvline(0, color=FROZEN, lw=1.2, zorder=0)
        ax.set_yticks(range(len(found)), found, fontsize=9)
        ax.set_ylim(len(found) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.set_title(textwrap.fill(statement, 58), fontsize=10, loc="left")
    amount = f"effect in {unit}" if unit else "effect"
    label = f"{amount}, 95 % interval (above 0: in the claim's favour)"
    axes[-1].set_xlabel(textwrap.fill(label, 62), fontsize=9)
    return axes[0]


def fixed_and_tuned(found, limits, axes=None):
    """Steps that each method needs, with one learning rate for all and with a tuned one: an Axes for each setting.

    found: {title: {method: {"fixed": steps, "tuned": steps}}}, each a list over seeds. Small dots are seeds, a large
    mark is their geometric mean.
    limits: {title: steps that stand for a run that did not arrive}: there the mark is an arrow.
    """
    methods = list(next(iter(found.values())))
    if axes is None:
        axes = new(
            min(1.4 + 2.5 * len(found), 9), 1.3 + 0.38 * len(methods), columns=len(found), sharex=True, sharey=True
        )
    looks = {"fixed": ("o", "white", SPARE[0], 0.14), "tuned": ("D", INK, INK, -0.14)}
    for ax, (title, by_method) in zip(np.atleast_1d(axes), found.items(), strict=True):
        for y, by_setting in enumerate(by_method.values()):
            for setting, steps in by_setting.items():
                marker, face, edge, shift = looks[setting]
                middle = np.exp(np.mean(np.log(steps)))
                ax.plot([min(steps), max(steps)], [y + shift] * 2, color=edge, lw=1.5, zorder=2)
                ax.plot(steps, [y + shift] * len(steps), ".", ms=6, color=edge, zorder=2)
                shape = ">" if middle > 0.99 * limits[title] else marker
                ax.plot(middle, y + shift, shape, ms=7, mfc=face, mec=edge, mew=1.5, zorder=3)
        middles = [np.exp(np.mean(np.log(by_setting["tuned"]))) for by_setting in by_method.values()]
        ax.axvspan(min(middles), max(middles), color=PALE, zorder=0)
        ax.set_xscale("log")
        marks = [n for n in (10, 25, 50, 100, 200, 400, 800, 1600) if ax.get_xlim()[0] <= n <= ax.get_xlim()[1]]
        ax.set_xticks(marks, [f"{n}" for n in marks], fontsize=9)
        ax.minorticks_off()
        bare(ax).set_title(title, fontsize=10)
        ax.set_xlabel("training steps to 90 %", fontsize=9)
    first = np.atleast_1d(axes)[0]
    first.set_yticks(range(len(methods)), methods, fontsize=9)
    first.set_ylim(len(methods) - 0.5, -0.5)
    first.set_ylabel("method", fontsize=9)
    names = {"fixed": "one learning rate for all", "tuned": "each method's own learning rate"}
    handles = [
        Line2D([], [], marker=marker, ls="none", ms=7, mfc=face, mec=edge, mew=1.5, label=names[setting])
        for setting, (marker, face, edge, _) in looks.items()
    ]
    first.figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return axes


def bits_stored(found, ax=None):
    """Bits that training has stored against trained parameters, a line for each size of the table.

    found: {bits in the table: {trained parameters: [bits stored, a value per seed]}}. Dotted: all that the table holds.
    """
    ax = bare(ax or new(6.5, 3.6))
    colours = AMOUNT(np.linspace(0.35, 1, len(found)))
    for (whole, by_size), colour, dashes in zip(found.items(), colours, DASHES, strict=False):
        middle = [np.mean(values) for values in by_size.values()]
        reach = [[m - min(v) for m, v in zip(middle, by_size.values(), strict=True)],
                 [max(v) - m for m, v in zip(middle, by_size.values(), strict=True)]]  # fmt: skip
        look = {"marker": "o", "ms": 6, "capsize": 3, "lw": 1.6, "ls": dashes, "color": colour}
        ax.errorbar(list(by_size), middle, reach, label=f"{whole:,.0f} bits", **look)
        ax.axhline(whole, color=GREY, lw=1, ls=":", zorder=0)
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel("trained parameters")
    ax.set_ylabel("bits stored")
    legend(ax, outside=True, title="in the table (dotted)", title_fontsize=9)
    return ax
