"""Figures of ranks: the error that each leaves, how many each matrix got, and which triplets AdaLoRA kept."""

import numpy as np
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.patches import Rectangle

from minipeft.plots.boxes import box, say
from minipeft.plots.style import (
    AMOUNT,
    FROZEN,
    GREY,
    HUES,
    INK,
    PALE,
    SPARE,
    bare,
    grid,
    hue,
    legend,
    new,
    readable,
    short,
)


def error_by_rank(errors, true_rank=None, bound=None, ax=None):
    """Error against rank. errors: {rank: list over seeds}, relative to the base; bound: {rank: the least possible}."""
    ax = bare(ax or new(6.0, 3.2))
    if true_rank is not None:
        ax.axvline(true_rank, color=FROZEN, lw=1, ls="--")
        ax.text(true_rank, 1.02, "true rank", transform=ax.get_xaxis_transform(), ha="center", color=INK, fontsize=9)
    middle = np.array([np.mean(values) for values in errors.values()])
    low, high = (np.array([f(values) for values in errors.values()]) for f in (np.min, np.max))
    look = {"fmt": "o-", "ms": 6, "capsize": 4, "color": HUES["LoRA"], "label": "LoRA, mean and range over seeds"}
    ax.errorbar(list(errors), middle, [middle - low, high - middle], **look)
    if bound:
        ax.plot(list(bound), list(bound.values()), "x", ms=11, mew=1.5, color=INK, zorder=3, label="least possible")
    ax.set_yscale("log")
    ax.set_xticks(range(min(errors), max(errors) + 1))
    ax.set_xlabel("rank r")
    ax.set_ylabel("error / error of the base")
    legend(ax)
    return ax


def rank_history(histories, budget, axes=None, label="AdaLoRA"):
    """AdaLoRA at work: above its budget b(t), below the rank that each matrix was left with.

    Args:
        histories: {path: [(t, rank), ...]}, the `history` of each of `adalora.layers(model)`.
        budget: b(t) for t = 0, ..., steps: [method.budget(t, steps, matrices) for t in range(steps + 1)].
    """
    if axes is None:
        high = 0.24 * len(histories)
        axes = new(7.5, 1.9 + high, rows=2, sharex=True, height_ratios=[1.6, high])
    above, below = bare(axes[0]), bare(axes[1])
    steps, moments = len(budget) - 1, [t for t, _ in next(iter(histories.values()))]
    ranks = np.array([[rank for _, rank in history] for history in histories.values()])  # (matrices, moments)
    above.plot(budget, color=hue(label), lw=2, label="budget b(t)")
    above.plot(moments, ranks.sum(0), "o", ms=5, mfc="white", mec=INK, label="ranks of all matrices")
    above.set_ylim(bottom=0)
    above.set_ylabel("triplets kept")
    legend(above)
    most, edges = int(ranks.max()), [*moments, steps]
    shown = LinearSegmentedColormap.from_list("ranks", AMOUNT(np.linspace(0, 0.85, 256)), N=most + 1)
    scale = BoundaryNorm(np.arange(most + 2) - 0.5, most + 1)
    below.pcolormesh(edges, np.arange(len(ranks) + 1), ranks, cmap=shown, norm=scale, edgecolors=FROZEN, lw=0.4)
    for (i, j), rank in np.ndenumerate(ranks):
        if edges[j + 1] - edges[j] > 0.025 * steps:
            colour = readable(shown(rank / max(most, 1))[:3])
            say(below, (edges[j] + edges[j + 1]) / 2, i + 0.5, rank, color=colour)
    below.set_yticks(np.arange(len(ranks)) + 0.5, map(short, histories))
    below.tick_params(axis="y", length=0, labelsize=9)
    below.invert_yaxis()
    below.set_xlim(0, steps)
    below.set_xlabel("training step t (cells: rank of the matrix)")
    below.set_ylabel("matrix")
    return axes


def rank_grid(ranks, wanted=None, ax=None):
    """The rank of every update as a grid: a row for each block, a column for each of its matrices.

    ranks: {path: rank}, of `adalora.ranks(model)`; or {path: list over seeds}, shown by their mean.
    wanted: {path: rank}, the ranks that are right; their cells are framed and say so.
    """
    mean, wanted = {path: float(np.mean(rank)) for path, rank in ranks.items()}, wanted or {}
    spots = {path: short(path).split(".", 1) for path in mean}  # (block, matrix)
    rows, columns = (list(dict.fromkeys(spot[i] for spot in spots.values())) for i in (0, 1))
    ax = grid(ax or new(max(1.6 + 0.95 * len(columns), 4), 1.1 + 0.6 * len(rows)), rows, columns)
    most = max([*mean.values(), 1])
    for path, value in mean.items():
        x, y = columns.index(spots[path][1]), rows.index(spots[path][0])
        text = f"{value:.0f}" if value.is_integer() else f"{value:.1f}"
        text += f" of {wanted[path]}" if path in wanted else ""
        face = AMOUNT(0.85 * value / most)[:3] if value else PALE
        box(ax, x, y, 1, 1, text, face, "white", gid=path, size=10)
        if path in wanted:
            frame = {"fill": False, "edgecolor": SPARE[0], "lw": 2.2, "zorder": 3}
            ax.add_patch(Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, **frame))
    ax.set_xlabel("matrix\n(cells: rank of its update" + ("; framed: planted)" if wanted else ")"))
    ax.set_ylabel("block")
    return ax


def triplet_scores(scores, kept, ax=None, label="AdaLoRA"):
    """The score of every triplet, a row for each matrix: filled if it was kept, hollow if it was masked.

    scores: {path: S (r,)}; kept: {path: booleans (r,)}. The dotted line stands between the two: one bar for all
    matrices. A score of zero is drawn at the left edge.
    """
    ax = bare(ax or new(7.5, 0.9 + 0.24 * len(scores)))
    S = {path: np.asarray(v.detach().cpu() if hasattr(v, "detach") else v) for path, v in scores.items()}
    chosen = {path: np.asarray(values, dtype=bool) for path, values in kept.items()}
    every, kept_ones = np.concatenate(list(S.values())), np.concatenate([S[path][chosen[path]] for path in S])
    floor = 0.3 * every[every > 0].min()
    for y, path in enumerate(S):
        at, alive = S[path].clip(floor), chosen[path]
        ax.axhline(y, color=PALE, lw=0.8, zorder=0)
        ax.plot(at[~alive], np.full((~alive).sum(), y), "o", ms=5, mfc="white", mec=GREY)
        ax.plot(at[alive], np.full(alive.sum(), y), "o", ms=7, mfc=hue(label), mec=INK, mew=0.6)
    if len(kept_ones) < len(every):
        masked = np.concatenate([S[path][~chosen[path]] for path in S]).clip(floor)
        ax.axvline(np.sqrt(kept_ones.min() * masked.max()), color=INK, lw=1, ls=":")
    ax.set_xscale("log")
    ax.set_yticks(range(len(S)), map(short, S))
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0, labelsize=9)
    ax.set_xlabel("score S of a triplet (filled: kept; hollow: masked; dotted: the threshold)")
    ax.set_ylabel("matrix")
    return ax
