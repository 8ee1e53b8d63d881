"""Figures for what happens to the weights: ΔW, its rank, and where in the model it is."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.patches import Rectangle

from minipeft.attach import disabled
from minipeft.plots.style import AMOUNT, FROZEN, HUES, INK, SIGNED, bare, new, shades


def low_rank(A, B, scale=1.0, ax=None):
    """B (out, r), A (r, in) and s·BA (out, in) as blocks in true proportion, coloured by their entries."""
    A, B = (t.detach().cpu().numpy() for t in (A, B))
    (out, r), into = B.shape, A.shape[1]
    ax = ax or new(6.5, 3)
    gap = 0.18 * max(out, into)
    blocks = [(0, 0, B, f"B\n{out} × {r}"), (r + gap, out / 2 - r / 2, A, f"A\n{r} × {into}")]
    blocks.append((r + gap + into + gap, 0, scale * B @ A, f"ΔW = s·BA\n{out} × {into}"))
    for x, y, values, label in blocks:
        height, width = values.shape
        limit = np.quantile(np.abs(values), 0.98) or 1
        ax.imshow(
            values, extent=(x, x + width, y, y + height), cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest"
        )
        ax.add_patch(Rectangle((x, y), width, height, fill=False, color=INK, lw=0.8))
        ax.text(x + width / 2, y - 0.04 * out, label, ha="center", va="top", color=INK)
    for x, sign in ((r + gap / 2, "·"), (r + gap + into + gap / 2, "=")):
        ax.text(x, out / 2, sign, ha="center", va="center", fontsize=20, color=INK)
    ax.set_xlim(-0.05 * out, r + 2 * gap + 2 * into + 0.05 * out)
    ax.set_ylim(-0.24 * out, 1.02 * out)
    ax.axis("off")
    return ax


def spectrum(updates, ax=None, relative=True, first=None):
    """Singular values of ΔW on a log axis. updates: {label: ΔW}; relative: divided by the largest of each.

    Where a rank ends, a dotted line falls to the bottom. first: show only so many values. Equal ones do not hide each
    other: each label has a marker of its own, and where there are few values they stand side by side.
    """
    ax = bare(ax or new(7))
    found = {label: torch.linalg.svdvals(delta.detach().float().cpu()) for label, delta in updates.items()}
    ranks = {label: int((v > 1e-5 * v[0]).sum()) for label, v in found.items()}  # what is less is rounding
    values = {label: (v / v[0] if relative else v)[: min(ranks[label], first or len(v))] for label, v in found.items()}
    bottom = min(0.3 * min((float(v.min()) for v in values.values() if len(v)), default=1), 0.01)
    longest = max(len(v) for v in values.values())
    few, aside = longest <= 16, 0.16 * (np.arange(len(updates)) - (len(updates) - 1) / 2)
    for i, (label, colour) in enumerate(zip(updates, shades(updates), strict=True)):
        shown, n = values[label], len(values[label])
        x = np.arange(1, n + 1) + (aside[i] if few else 0)
        look = {"marker": "os^DvP"[i % 6], "mew": 1.4, "mfc": "white" if i % 2 else colour, "ms": 7 if few else 4.5}
        ax.plot(x, shown, ls="none" if few else "-", color=colour, label=label, **look)
        if 0 < n == ranks[label] < min(len(found[label]), first or n + 1):
            ax.plot([x[-1], x[-1] + 0.6], [shown[-1], bottom], ":", lw=1.5, color=colour)
    if not few:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:.0f}")
    else:
        ax.set_xticks(range(1, (first or longest) + 1))
    ax.set_yscale("log")
    ax.set_ylim(bottom=bottom)
    ax.set_xlabel("index of the singular value (dotted: the rest is zero)")
    ax.set_ylabel("singular value / largest" if relative else "singular value of ΔW")
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def elbow(errors, true_rank=None, bound=None, ax=None):
    """Error against rank. errors: {rank: list over seeds}, relative to the base; bound: {rank: the least possible}."""
    ax = bare(ax or new(6.0, 3.2))
    if true_rank is not None:
        ax.axvline(true_rank, color=FROZEN, lw=1, ls="--")
        ax.text(true_rank, 1.02, "true rank", transform=ax.get_xaxis_transform(), ha="center", color=INK, fontsize=9)
    mean = np.array([np.mean(values) for values in errors.values()])
    low, high = (np.array([f(values) for values in errors.values()]) for f in (np.min, np.max))
    ax.errorbar(
        list(errors),
        mean,
        [mean - low, high - mean],
        fmt="o-",
        ms=6,
        capsize=4,
        color=HUES["LoRA"],
        label="LoRA, all seeds",
    )
    if bound:
        ax.plot(list(bound), list(bound.values()), "x", ms=11, mew=1.5, color=INK, zorder=3, label="least possible")
    ax.set_yscale("log")
    ax.set_xticks(range(min(errors), max(errors) + 1))
    ax.set_xlabel("rank r")
    ax.set_ylabel("error / error of the base")
    ax.legend(frameon=False)
    return ax


def what_moved(model, updates, ax=None):
    """One strip for the whole model: the relative change ‖ΔW‖/‖W‖ of every tensor, grey where nothing moved.

    updates: `deltas.updates(model)`, {name: (W, ΔW)}. A bar is as wide as the logarithm of the tensor's size.
    """
    with disabled(model):
        sizes = {name: p.numel() for name, p in model.named_parameters()}
    ax = bare(ax or new(8, 2.4))
    change = {name: float(d.norm() / w.norm().clamp(min=1e-12)) for name, (w, d) in updates.items()}
    top = max(change.values(), default=0) or 1
    low = min(max(min(change.values(), default=0), top / 1000), top / 10)
    norm = LogNorm(low, top, clip=True)
    shown = LinearSegmentedColormap.from_list("shown", AMOUNT(np.linspace(0.2, 1, 256)))  # never as pale as paper
    x, ticks, groups = 0.0, {}, {}
    for name, size in sizes.items():
        width = np.log10(size)
        colour = shown(norm(change[name])) if change.get(name) else "#e6e6e6"
        ax.add_patch(Rectangle((x, 0), width, 1, facecolor=colour, edgecolor="white", lw=0.5))
        parts = name.split(".")
        if name.endswith(".weight") and ".norm" not in name:
            ticks[x + width / 2] = ".".join(parts[2:-1] if parts[0] == "blocks" else parts[:-1])
        group = " ".join(("block", parts[1])) if parts[0] == "blocks" else parts[0]
        groups[group] = (groups.get(group, (x,))[0], x + width)
        x += width
    ax.set_xticks(list(ticks), ticks.values())
    ax.tick_params(axis="x", rotation=90, length=0, labelsize=8)
    for group, (left, right) in groups.items():
        if right - left > len(group):  # else there is no room
            ax.text((left + right) / 2, 1.08, group, ha="center", fontsize=8, color=INK)
        ax.plot([right, right], [0, 1.2], color=INK, lw=0.5, clip_on=False)
    ax.set_xlim(0, x)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.spines[["left", "bottom"]].set_visible(False)
    bar = ax.figure.colorbar(plt.cm.ScalarMappable(norm, shown), ax=ax, pad=0.01, fraction=0.04)
    marks = np.geomspace(low, top, 3)
    bar.set_ticks(marks, labels=[f"{mark:.2g}" for mark in marks])
    bar.minorticks_off()
    bar.set_label("‖ΔW‖ / ‖W‖\n(grey: frozen)", fontsize=8)
    return ax
