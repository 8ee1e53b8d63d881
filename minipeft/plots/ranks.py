"""Figures for ranks that find their places: how many each matrix got, and which triplets were worth keeping."""

import numpy as np
from matplotlib.patches import Rectangle

from minipeft.plots.methods import short
from minipeft.plots.style import AMOUNT, FROZEN, INK, PALE, SPARE, bare, hue, new, readable


def rank_grid(ranks, wanted=None, ax=None):
    """The rank of every update as a grid: a row for each block, a column for each of its matrices.

    ranks: {path: rank}, of `adalora.ranks(model)`; or {path: list over seeds}, shown by their mean.
    wanted: {path: rank}, the ranks that are right; their cells are framed and say so.
    """
    mean = {path: float(np.mean(rank)) for path, rank in ranks.items()}
    spots = {path: short(path).split(".", 1) for path in mean}  # (block, matrix)
    rows, columns = (list(dict.fromkeys(spot[i] for spot in spots.values())) for i in (0, 1))
    ax = bare(ax or new(1.6 + 0.95 * len(columns), 0.9 + 0.6 * len(rows)))
    wanted, most = wanted or {}, max([*mean.values(), 1])
    for path, value in mean.items():
        x, y = columns.index(spots[path][1]), rows.index(spots[path][0])
        face = AMOUNT(0.85 * value / most)[:3] if value else PALE
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white", gid=path))
        text = f"{value:.0f}" if value.is_integer() else f"{value:.1f}"
        text += f" of {wanted[path]}" if path in wanted else ""
        ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=10, color=readable(face))
    for path in wanted:
        x, y = columns.index(spots[path][1]), rows.index(spots[path][0])
        ax.add_patch(Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, fill=False, edgecolor=SPARE[0], lw=2.2, zorder=3))
    ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlabel("matrix (cells: rank of its update" + ("; framed: planted)" if wanted else ")"))
    ax.set_ylabel("block")
    return ax


def triplets(scores, kept, ax=None, label="AdaLoRA"):
    """What every triplet is worth, a row for each matrix: filled if it was kept, hollow if it was masked.

    scores: {path: S (r,)}; kept: {path: booleans (r,)}. The dotted line stands between the two: one bar for all
    matrices. A score of zero is drawn at the left edge.
    """
    ax = bare(ax or new(7.5, 0.9 + 0.24 * len(scores)))
    S = {
        path: np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        for path, values in scores.items()
    }
    chosen = {path: np.asarray(values, dtype=bool) for path, values in kept.items()}
    every, kept_ones = np.concatenate(list(S.values())), np.concatenate([S[path][chosen[path]] for path in S])
    floor = 0.3 * every[every > 0].min()
    for y, path in enumerate(S):
        at = S[path].clip(floor)
        ax.axhline(y, color=PALE, lw=0.8, zorder=0)
        ax.plot(at[~chosen[path]], np.full((~chosen[path]).sum(), y), "o", ms=5, mfc="white", mec=FROZEN)
        ax.plot(at[chosen[path]], np.full(chosen[path].sum(), y), "o", ms=7, mfc=hue(label), mec=INK, mew=0.6)
    if len(kept_ones) < len(every):
        masked = np.concatenate([S[path][~chosen[path]] for path in S]).clip(floor)
        ax.axvline(np.sqrt(kept_ones.min() * masked.max()), color=INK, lw=1, ls=":")
    ax.set_xscale("log")
    ax.set_yticks(range(len(S)), map(short, S))
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.set_xlabel("score S of a triplet (filled: kept; hollow: masked; dotted: the bar)")
    ax.set_ylabel("matrix")
    return ax
