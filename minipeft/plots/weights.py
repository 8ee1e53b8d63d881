"""Figures of weights and their changes: ΔW and its spectrum, what moved where, lengths and directions of rows."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.patches import Rectangle

from minipeft import deltas
from minipeft.attach import attachments, detach
from minipeft.methods.dora import decompose
from minipeft.plots.boxes import box, say
from minipeft.plots.style import (
    AMOUNT,
    FROZEN,
    GREY,
    INK,
    PALE,
    SIGNED,
    bare,
    grid,
    heatmap,
    hue,
    legend,
    new,
    shades,
    short,
)


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
        heatmap(ax, values, SIGNED, -limit, limit, extent=(x, x + width, y, y + height))
        ax.add_patch(Rectangle((x, y), width, height, fill=False, color=INK, lw=0.8))
        say(ax, x + width / 2, y - 0.04 * out, label, size=10, va="top")
    for x, sign in ((r + gap / 2, "·"), (r + gap + into + gap / 2, "=")):
        say(ax, x, out / 2, sign, size=20)
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
    bottom = 0.1 * min((float(v.min()) for v in values.values() if len(v)), default=1)
    longest = max(len(v) for v in values.values())
    few, aside = longest <= 16, 0.16 * (np.arange(len(updates)) - (len(updates) - 1) / 2)
    for i, (label, colour) in enumerate(zip(updates, shades(updates), strict=True)):
        shown, n = values[label], len(values[label])
        x = np.arange(1, n + 1) + (aside[i] if few else 0)
        look = {"marker": "os^DvP"[i % 6], "mew": 1.4, "mfc": "white" if i % 2 else colour, "ms": 7 if few else 4.5}
        ax.plot(x, shown, ls="none" if few else "-", color=colour, label=label, **look)
        if 0 < n == ranks[label] < min(len(found[label]), first or n + 1):
            ax.plot([x[-1], x[-1] + 0.6], [shown[-1], bottom], ":", lw=1.5, color=colour)
    if few:
        ax.set_xticks(range(1, (first or longest) + 1))
    else:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_yscale("log")
    ax.set_ylim(bottom=bottom)
    ax.set_xlabel("index of the singular value (dotted: the rest is zero)")
    ax.set_ylabel("singular value / largest" if relative else "singular value of ΔW")
    legend(ax, outside=True)
    return ax


def principal_singular_values(weights, rank, axes=None, label="PiSSA"):
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
    legend(axes[-1])
    return axes


def relative_changes(updates):
    """{name: ‖ΔW‖ / ‖W‖} of `deltas.updates(model)`."""
    return {name: float(change.norm() / W.norm().clamp(min=1e-12)) for name, (W, change) in updates.items()}


def change_colours(changes):
    """The colours of relative changes: a logarithmic scale of at most three decades, never as pale as paper."""
    top = max(changes.values(), default=0) or 1
    least = min((change for change in changes.values() if change), default=top)
    norm = LogNorm(min(max(least, top / 1000), top / 10), top, clip=True)
    return plt.cm.ScalarMappable(norm, LinearSegmentedColormap.from_list("shown", AMOUNT(np.linspace(0.2, 0.95, 256))))


def change_scale(ax, colours, label, **kwargs):
    """The colour bar of `change_colours`, with three numbers at it."""
    bar = ax.figure.colorbar(colours, ax=ax, **kwargs)
    marks = np.geomspace(colours.norm.vmin, colours.norm.vmax, 3)
    bar.set_ticks(marks, labels=[f"{mark:.2g}" for mark in marks])
    bar.minorticks_off()
    bar.set_label(label, fontsize=9)


def what_moved(model, updates, ax=None):
    """One strip for the whole model: the relative change ‖ΔW‖/‖W‖ of every tensor, grey where nothing moved.

    updates: `deltas.updates(model)`, {name: (W, ΔW)}. A bar is as wide as the logarithm of the tensor's size.
    """
    sizes = {name: p.numel() for name, p in detach(model).named_parameters()}
    ax, changes = bare(ax or new(8, 2.4)), relative_changes(updates)
    colours = change_colours(changes)
    x, ticks, groups = 0.0, {}, {}
    for name, size in sizes.items():
        width = np.log10(size)
        face = colours.to_rgba(changes[name]) if changes.get(name) else PALE
        box(ax, x, 0, width, 1, face=face, edge="white", lw=0.5)
        parts = name.split(".")
        if name.endswith(".weight") and ".norm" not in name:
            ticks[x + width / 2] = ".".join(parts[2:-1] if parts[0] == "blocks" else parts[:-1])
        group = " ".join(("block", parts[1])) if parts[0] == "blocks" else parts[0]
        groups[group] = (groups.get(group, (x,))[0], x + width)
        x += width
    ax.set_xticks(list(ticks), ticks.values())
    ax.tick_params(axis="x", rotation=90, length=0, labelsize=9)
    for group, (left, right) in groups.items():
        if right - left > len(group):  # else there is no room
            style = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "color": INK}
            ax.annotate(group, ((left + right) / 2, 1), (0, 4), **style)
        ax.plot([right, right], [0, 1.25], color=INK, lw=0.5, clip_on=False)
    ax.set(xlim=(0, x), ylim=(0, 1), yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    change_scale(ax, colours, "‖ΔW‖ / ‖W‖\n(grey: frozen)", pad=0.01, fraction=0.04)
    return ax


def bias_changes(model, ax=None, relative=True):
    """How far each bias vector moved: a row for each kind, a column for each block; grey where none did.

    relative: ‖Δb‖/‖b‖, else ‖Δb‖. The bias of the keys is marked as idle: it adds the same to all scores of a query,
    so its moving changes nothing.
    """
    names = [name for name, _ in detach(model).named_parameters() if name.endswith(".bias")]
    updates = {name: pair for name, pair in deltas.updates(model).items() if name.endswith(".bias")}
    changes = relative_changes(updates) if relative else {name: float(Δ.norm()) for name, (_, Δ) in updates.items()}
    colours, spots = change_colours(changes), {}  # spots: {name: (row, column)}
    for name in names:
        _, number, rest = name.split(".", 2) if name.startswith("blocks.") else ("", "", name)
        spots[name] = rest.removesuffix(".bias"), f"block {number}" if number else "outside"
    rows, columns = (list(dict.fromkeys(spot[i] for spot in spots.values())) for i in (0, 1))
    ax = grid(ax or new(2.9 + 0.75 * len(columns), 0.9 + 0.28 * len(rows)), rows, columns)
    decimals = 1 if max(changes.values(), default=0) >= 10 else 2
    for name, (row, column) in spots.items():
        change = changes.get(name)
        face, text = (to_rgb(colours.to_rgba(change)), f"{change:.{decimals}f}") if change else (to_rgb(PALE), "")
        box(ax, columns.index(column), rows.index(row), 1, 1, text, face, "white", gid=name.removesuffix(".bias"))
    ax.set_yticks(ax.get_yticks(), [row + " (idle)" * row.endswith("attn.k") for row in rows])
    ax.set_xlabel("where in the model")
    ax.set_ylabel("bias of")
    label = ("‖Δb‖ / ‖b‖" if relative else "‖Δb‖") + "  (grey: frozen)" * any(not changes.get(name) for name in names)
    change_scale(ax, colours, label, pad=0.03, fraction=0.06)
    return ax


def magnitude_direction(updates, axes=None):
    """How each row of the weights changed in length and in direction, side by side for several methods.

    updates: {label: {name: (W, ΔW)}}, of `deltas.updates`; matrices that not all of them changed are left out. A dot is
    a row, a white mark the median of a matrix. Dotted: where a change at right angles to the row takes it, 1 / cos θ.
    r: the correlation of what is drawn, of the angle and of |log₂| of the ratio of lengths.
    """
    every = next(iter(updates.values()))
    common = [name for name in every if every[name][0].ndim == 2 and all(name in of for of in updates.values())]
    if not common:
        raise ValueError("there is no matrix that all of them changed; give the methods the same targets")
    if axes is None:
        axes = new(2.6 * len(updates) + 1.2, 3.6, columns=len(updates), sharex=True, sharey=True)
    axes, widest = np.atleast_1d(axes), 1.0
    for (label, pairs), colour, ax in zip(updates.items(), shades(updates), axes, strict=True):
        points = {}
        for name in common:
            W, ΔW = (t.float().cpu() for t in pairs[name])
            (before, was), (after, now) = decompose(W), decompose(W + ΔW)
            angle = torch.rad2deg(torch.acos((was * now).sum(1).clamp(-1, 1)))
            points[name] = angle.numpy(), (after / before).numpy()
        angles, ratios = (np.concatenate([pair[i] for pair in points.values()]) for i in (0, 1))
        with np.errstate(invalid="ignore"):  # where nothing changed there is no correlation
            r = np.corrcoef(angles, np.abs(np.log2(ratios)))[0, 1]
        bare(ax).plot(angles, ratios, "o", ms=3, color=colour, alpha=0.45, mew=0)
        for (name, pair), marker in zip(points.items(), itertools.cycle("os^Dv<>pX*"), strict=False):
            ax.plot(*map(np.median, pair), marker, ms=8, mfc="white", mec=INK, mew=1.3, label=short(name), zorder=4)
        θ = np.linspace(0, 85, 200)
        ax.plot(θ, 1 / np.cos(np.deg2rad(θ)), ":", color=INK, lw=1.2, label="1 / cos θ")
        ax.axhline(1, color=GREY, lw=0.8)
        ax.set_title(f"{label}, r = {r:.2f}", fontsize=10)
        ax.set_xlabel("change of direction θ (degrees)")
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter("{x:.2g}")
        widest = max(widest, angles.max())
    for ax in axes:
        ax.set_xlim(0, 1.05 * widest)
    axes[0].set_ylabel("length of the row, new / old")
    legend(axes[-1], outside=True, title="median of", title_fontsize=9)
    return axes


def vera_vectors(model, axes=None):
    """VeRA: d and b of every layer, in true order; above them the one frozen pair A, B that they share. Axes (2, 2).

    A row of d holds a number for each of the r directions, a row of b one for each output.
    """
    layers = [item for a in attachments(model) for item in a.layers.items()]
    found = {path: layer for path, layer in layers if hasattr(layer, "shared")}
    if not found:
        raise ValueError("there is no VeRA on this model; attach one")
    pair, names = next(iter(found.values())).shared, [short(path) for path in found]
    if axes is None:
        axes = new(7, 1.5 + 0.22 * len(found), columns=2, rows=2, height_ratios=[0.6, 0.22 * len(found)])
    for ax, (name, matrix) in zip(axes[0], (("A", pair.A), ("B", pair.B)), strict=True):
        box(ax, 0, 0, 1, 1, f"{name}: {' × '.join(map(str, matrix.shape))}, frozen, shared").set_clip_on(False)
        ax.axis("off")
    for ax, which, under in zip(axes[1], ("d", "b"), ("rank", "output"), strict=True):
        rows = torch.stack([getattr(layer, which).detach().cpu().float() for layer in found.values()]).numpy()
        limit = np.abs(rows).max() or 1
        image = heatmap(ax, rows, SIGNED, -limit, limit, aspect="auto")
        ax.set_yticks(range(len(names)), names)
        ax.set_xlabel(f"{which}, trained: {under} (index)")
        ax.figure.colorbar(image, ax=ax, pad=0.02).set_label(which, rotation=0)
    return axes
