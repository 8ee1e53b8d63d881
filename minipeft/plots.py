"""Every figure as a function: data in, matplotlib Axes out. Show or save is the caller's business.

One palette for the whole course: what is frozen is grey, every method has one hue, told apart by those who see no red
or green too. Every axis carries a label with its unit.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.patches import Rectangle

FROZEN = "#b8b8b8"
INK = "#333333"
HUES = {"Full": "#000000", "LoRA": "#0072b2"}  # Okabe and Ito's colours; a method that has none gets the next of SPARE
SPARE = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
SIGNED = LinearSegmentedColormap.from_list("signed", ["#b2432f", "#ffffff", "#0072b2"])  # below zero, zero, above
AMOUNT = LinearSegmentedColormap.from_list("amount", ["#ffffff", "#56b4e9", "#0072b2", "#002b4d"])


def hue(label):
    """The colour of a method, from a label such as `LoRA(rank=4)`."""
    name = str(label).split("(")[0]
    if name in HUES:
        return HUES[name]
    return SPARE[sum(map(ord, name)) % len(SPARE)]


def shades(labels):
    """A colour for each label: the method's hue, lighter for each further label of the same method."""
    seen, colours = {}, []
    for label in labels:
        name = str(label).split("(")[0]
        fade = min(0.18 * seen.get(name, 0), 0.75)
        rgb = np.array(plt.matplotlib.colors.to_rgb(hue(label)))
        colours.append(tuple(rgb + (1 - rgb) * fade))
        seen[name] = seen.get(name, 0) + 1
    return colours


def bare(ax):
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def new(width=6.0, height=3.0, columns=1, **kwargs):
    """A figure of `columns` Axes in a row; one Axes if there is one."""
    return plt.subplots(1, columns, figsize=(width, height), layout="constrained", dpi=80, **kwargs)[1]


def curves(histories, quantity="loss", ax=None, window=10):
    """Training curves. histories: {label: History}; quantity: "loss" or "accuracy"; smoothed over `window` steps."""
    ax = bare(ax or new())
    for (label, history), colour in zip(histories.items(), shades(histories), strict=True):
        values = np.array(getattr(history, quantity))
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        ax.plot(np.arange(len(smooth)) + window, smooth, color=colour, label=label)
    ax.set_xlabel("training step")
    ax.set_ylabel("loss (nats per token)" if quantity == "loss" else "lines right (share)")
    if quantity == "loss":
        ax.set_yscale("log")
    ax.legend(frameon=False)
    return ax


def low_rank(A, B, scale=1.0, ax=None):
    """B (out, r), A (r, in) and s·BA (out, in) as blocks in true proportion, coloured by their entries."""
    A, B = (t.detach().cpu().numpy() for t in (A, B))
    (out, r), into = B.shape, A.shape[1]
    ax = ax or new(6.5, 3.2)
    gap = 0.18 * max(out, into)
    blocks = [(0, 0, B, f"B\n{out} × {r}"), (r + gap, out / 2 - r / 2, A, f"A\n{r} × {into}")]
    blocks.append((r + gap + into + gap, 0, scale * B @ A, f"ΔW = s·BA\n{out} × {into}"))
    for x, y, values, label in blocks:
        height, width = values.shape
        limit = np.abs(values).max() or 1
        ax.imshow(values, extent=(x, x + width, y, y + height), cmap=SIGNED, vmin=-limit, vmax=limit, aspect="equal")
        ax.add_patch(Rectangle((x, y), width, height, fill=False, color=INK, lw=0.8))
        ax.text(x + width / 2, y - 0.04 * out, label, ha="center", va="top", color=INK)
    for x, sign in ((r + gap / 2, "·"), (r + gap + into + gap / 2, "=")):
        ax.text(x, out / 2, sign, ha="center", va="center", fontsize=16, color=INK)
    ax.set_xlim(-0.05 * out, r + 2 * gap + 2 * into + 0.05 * out)
    ax.set_ylim(-0.3 * out, 1.05 * out)
    ax.axis("off")
    return ax


def spectrum(updates, ax=None, relative=True):
    """Singular values of ΔW on a log axis. updates: {label: ΔW}; relative: divided by the largest of each."""
    ax = bare(ax or new())
    for (label, delta), colour in zip(updates.items(), shades(updates), strict=True):
        values = torch.linalg.svdvals(delta.detach().float().cpu())
        values = (values / values[0] if relative else values).clamp(min=1e-8)
        shown = values[values > 1e-6 * values[0]]  # below is rounding: the rank ends here
        ax.plot(np.arange(1, len(shown) + 1), shown, "o-", ms=4, color=colour, label=label)
    ax.set_yscale("log")
    ax.set_xlabel("index of the singular value")
    ax.set_ylabel("singular value / largest" if relative else "singular value of ΔW")
    ax.legend(frameon=False)
    return ax


def what_moved(model, updates, ax=None):
    """One strip for the whole model: the relative change ‖ΔW‖/‖W‖ of every tensor, grey where nothing moved.

    updates: `deltas.updates(model)`, {name: (W, ΔW)}. A bar is as wide as the logarithm of the tensor's size.
    """
    from minipeft.wrapping import disabled

    with disabled(model):
        sizes = {name: p.numel() for name, p in model.named_parameters()}
    ax = bare(ax or new(8, 2.4))
    x, ticks, groups = 0.0, [], {}
    top = max((float(d.norm() / w.norm().clamp(min=1e-12)) for w, d in updates.values()), default=1)
    norm = LogNorm(top / 1000, top) if top > 0 else LogNorm(1e-3, 1)
    for name, size in sizes.items():
        width = np.log10(size)
        if name in updates:
            w, d = updates[name]
            colour = AMOUNT(norm(max(float(d.norm() / w.norm().clamp(min=1e-12)), top / 1000)))
        else:
            colour = "#e6e6e6"
        ax.add_patch(Rectangle((x, 0), width, 1, facecolor=colour, edgecolor="white", lw=0.5))
        if name.endswith("weight") or name not in updates:
            ticks.append((x + width / 2, name))
        group = ".".join(name.split(".")[:2]) if name.startswith("blocks") else name.split(".")[0]
        start, _ = groups.get(group, (x, x))
        groups[group] = (start, x + width)
        x += width
    shown = [(t, n) for t, n in ticks if n.endswith(".weight") and "norm" not in n]
    ax.set_xticks([t for t, _ in shown], [".".join(n.split(".")[-3:-1]) if "blocks" in n else n[:-7] for _, n in shown])
    ax.tick_params(axis="x", rotation=90, length=0, labelsize=8)
    for group, (left, right) in groups.items():
        ax.text((left + right) / 2, 1.08, group.replace("blocks.", "block "), ha="center", fontsize=8, color=INK)
        ax.plot([right, right], [0, 1.2], color=INK, lw=0.5, clip_on=False)
    ax.set_xlim(0, x)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.spines[["left", "bottom"]].set_visible(False)
    bar = ax.figure.colorbar(plt.cm.ScalarMappable(norm, AMOUNT), ax=ax, pad=0.01, fraction=0.04)
    bar.set_label("‖ΔW‖ / ‖W‖\n(grey: frozen)", fontsize=8)
    return ax


def attention(weights, words, ax=None, title=None):
    """One attention map: weights (T, S), rows are queries and columns keys, both labelled with `words`."""
    weights = weights.detach().cpu().numpy()
    ax = ax or new(3.4, 3.2)
    ax.imshow(weights, cmap=AMOUNT, vmin=0, vmax=1)
    ax.set_xticks(range(weights.shape[1]), words[-weights.shape[1] :], rotation=90)
    ax.set_yticks(range(weights.shape[0]), words[-weights.shape[0] :])
    ax.tick_params(length=0, labelsize=8)
    ax.set_xlabel("key: read from")
    ax.set_ylabel("query: token that reads")
    if title:
        ax.set_title(title, fontsize=9)
    return ax


def pareto(rows, ax=None):
    """Accuracy against trainable parameters, one point for each method with the range over seeds.

    rows: dictionaries with `method`, `parameters`, `accuracy` (list over seeds), as `comparison.compare` gives them.
    """
    ax = bare(ax or new(6.5, 3.6))
    rows = sorted(rows, key=lambda row: row["parameters"])
    for i, (row, colour) in enumerate(zip(rows, shades([r["method"] for r in rows]), strict=True)):
        values = np.array(row["accuracy"])
        low, high = values.mean() - values.min(), values.max() - values.mean()
        ax.errorbar(row["parameters"], values.mean(), [[low], [high]], fmt="o", ms=7, capsize=3, color=colour)
        ax.annotate(
            row["method"], (row["parameters"], values.mean()), (0, -14 - 12 * (i % 2)), textcoords="offset points",
            ha="center", fontsize=8, color=INK,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_ylim(-0.08, 1.05)
    ax.margins(x=0.12)
    ax.set_xlabel("trainable parameters")
    ax.set_ylabel("lines right (share)\nmean and range over seeds")
    return ax
