"""Figures for the variants of LoRA: the rate that each wants, PiSSA's split of a weight, VeRA's shared pair."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from minipeft.attach import attachments
from minipeft.plots.methods import short
from minipeft.plots.style import FROZEN, INK, PALE, SIGNED, bare, dash, hue, mark, new, shades


def rates(losses, ax=None):
    """Loss against learning rate, a line for each {label: {rate: loss}}; the least of each is ringed."""
    ax = bare(ax or new(7.5, 3.4))
    for (label, by_rate), colour in zip(losses.items(), shades(losses), strict=True):
        tried = sorted(by_rate)
        values = [by_rate[rate] for rate in tried]
        ax.plot(tried, values, color=colour, ls=dash(label), **mark(label), label=label)
        best = min(tried, key=by_rate.get)
        ax.plot(best, by_rate[best], "o", ms=14, mfc="none", mec=INK, mew=1.2, zorder=4)
    ax.set_xscale("log")
    ax.set_yscale("log")
    every = sorted({rate for by_rate in losses.values() for rate in by_rate})
    ax.set_xticks(every, [f"{rate:g}" for rate in every])
    ax.minorticks_off()
    low, high = ax.get_ylim()
    marks = [m for m in (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10) if low <= m <= high]
    ax.set_yticks(marks, [f"{m:g}" for m in marks])
    ax.set_xlabel("learning rate (ring: the best)")
    ax.set_ylabel("loss (nats per token)")
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def principal(weights, rank, axes=None, label="PiSSA"):
    """Singular values of weights, {name: W}: the first `rank`, which PiSSA trains, coloured; the frozen rest grey."""
    axes = np.atleast_1d(new(3.4 * len(weights), 2.6, columns=len(weights), sharey=True) if axes is None else axes)
    for (name, W), ax in zip(weights.items(), axes, strict=True):
        values = torch.linalg.svdvals(W.detach().double().cpu()).numpy()
        place, share = np.arange(1, len(values) + 1), (values[:rank] ** 2).sum() / (values**2).sum()
        bare(ax).bar(place[rank:], values[rank:], width=1, color=FROZEN, label="R: frozen")
        ax.bar(place[:rank], values[:rank], width=1, color=hue(label), label="BA: trained")
        ax.set_title(f"{short(name)}: {share:.0%} of the energy in the first {rank}", fontsize=9)
        ax.set_xlabel("index of the singular value")
    axes[0].set_ylabel("singular value of W")
    axes[-1].legend(frameon=False, fontsize=9)
    return axes


def shared_pair(model, axes=None):
    """VeRA: the one frozen pair A, B, and below it, in true order, d and b of every layer. Axes (2, 2).

    A row of d holds a number for each of the r directions, a row of b one for each output.
    """
    found = {s.path: s.replacement for a in attachments(model) for s in a.swaps if hasattr(s.replacement, "shared")}
    if not found:
        raise ValueError("there is no VeRA on this model; attach one")
    pair, names = next(iter(found.values())).shared, [short(path) for path in found]
    if axes is None:
        size = {"figsize": (7, 1.5 + 0.22 * len(found)), "layout": "constrained", "dpi": 80}
        axes = plt.subplots(2, 2, gridspec_kw={"height_ratios": [0.6, 0.22 * len(found)]}, **size)[1]
    for ax, (name, matrix) in zip(axes[0], (("A", pair.A), ("B", pair.B)), strict=True):
        told = f"{name}: {' × '.join(map(str, matrix.shape))}, frozen, shared"
        ax.add_patch(Rectangle((0, 0), 1, 1, facecolor=PALE, edgecolor=FROZEN, transform=ax.transAxes))
        ax.text(0.5, 0.5, told, transform=ax.transAxes, ha="center", va="center", fontsize=9, color=INK)
        ax.axis("off")
    for ax, which, under in zip(axes[1], ("d", "b"), ("rank", "output"), strict=True):
        rows = torch.stack([getattr(layer, which).detach().cpu().float() for layer in found.values()]).numpy()
        limit = np.abs(rows).max() or 1
        image = ax.imshow(rows, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.set_xlabel(f"{which}, trained: {under} (index)")
        ax.tick_params(axis="y", length=0)
        ax.figure.colorbar(image, ax=ax, pad=0.02).set_label(which, rotation=0)
    return axes
