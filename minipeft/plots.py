"""Every figure as a function: data in, matplotlib Axes out. Show or save is the caller's business.

One palette for the whole course: what is frozen is grey, every method has one hue, told apart by those who see no red
or green too. Every axis carries a label with its unit.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.patches import Rectangle

from minipeft.wrapping import disabled

FROZEN = "#b8b8b8"
INK = "#333333"
HUES = {"Full": "#000000", "LoRA": "#0072b2"}  # Okabe and Ito's colours; what has none gets the next of SPARE
SPARE = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
SIGNED = LinearSegmentedColormap.from_list("signed", ["#b2432f", "#ffffff", "#0072b2"])  # below zero, zero, above
AMOUNT = LinearSegmentedColormap.from_list("amount", ["#ffffff", "#56b4e9", "#0072b2", "#002b4d"])


def method(label):
    return str(label).split("(")[0]


def shades(labels):
    """A colour for each label: the method's hue, paler from one label of the same method to the next."""
    names = [method(label) for label in labels]
    strangers = [name for name in dict.fromkeys(names) if name not in HUES]
    colours, seen = [], {}
    for name in names:
        rgb = np.array(to_rgb(HUES[name] if name in HUES else SPARE[strangers.index(name) % len(SPARE)]))
        fade = 0.65 * seen.get(name, 0) / max(1, names.count(name) - 1)
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
        over = min(window, len(values))
        smooth = np.convolve(values, np.ones(over) / over, "valid")
        ax.plot(np.arange(len(smooth)) + over, smooth, color=colour, label=label)
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

    Where a rank ends, a dotted line falls to the bottom. first: show only so many values.
    """
    ax = bare(ax or new(7))
    found = {label: torch.linalg.svdvals(delta.detach().float().cpu()) for label, delta in updates.items()}
    ranks = {label: int((v > 1e-5 * v[0]).sum()) for label, v in found.items()}  # what is less is rounding
    values = {label: (v / v[0] if relative else v)[: min(ranks[label], first or len(v))] for label, v in found.items()}
    bottom = min(0.3 * min((float(v.min()) for v in values.values() if len(v)), default=1), 0.01)
    longest = max(len(v) for v in values.values())
    sizes = np.linspace(*((10, 4) if longest <= 16 else (5, 3)), len(updates))  # lines on top of each other all show
    for label, colour, size in zip(updates, shades(updates), sizes, strict=True):
        shown, n = values[label], len(values[label])
        ax.plot(np.arange(1, n + 1), shown, "o-", ms=size, color=colour, label=label)
        if 0 < n == ranks[label] < min(len(found[label]), first or n + 1):
            ax.plot([n, n + 0.6], [shown[-1], bottom], ":", lw=1.5, color=colour)
    if longest > 16:
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


def attention(weights, words, ax=None, title=None, splits=()):
    """One attention map: weights (T, S), rows read, columns are read from; `words` labels the last of both.

    Grey is what a query may not see, where the weight is exactly zero. Small maps show their numbers.
    splits: a thin line is drawn after so many words, to part an instruction from what follows.
    """
    weights = np.asarray(torch.as_tensor(weights).detach().cpu())
    T, S = weights.shape
    ax = ax or new(3.6, 3.4)
    ax.imshow(np.ma.masked_equal(weights, 0), cmap=AMOUNT, vmin=0, vmax=1)
    ax.set_facecolor("#e6e6e6")
    if S <= 6:
        for i, j in zip(*weights.nonzero(), strict=True):
            colour = "white" if weights[i, j] > 0.4 else INK
            ax.text(j, i, f"{weights[i, j]:.2f}", ha="center", va="center", color=colour)
    for place in splits:
        ax.axvline(place - 0.5, color="#999999", lw=0.6)
        ax.axhline(place - 0.5 - (S - T), color="#999999", lw=0.6)
    ax.set_xticks(range(S), words[-S:], rotation=90)
    ax.set_yticks(range(T), words[-T:])
    ax.tick_params(length=0, labelsize=8)
    ax.set_xlabel("key: token read from")
    ax.set_ylabel("query: token that reads")
    if title:
        ax.set_title(title, fontsize=9)
    return ax


def attention_maps(maps, words, splits=()):
    """All attention maps of a model: a row for each layer's (H, T, S), a column for each head, one scale of colour."""
    layers, heads = len(maps), len(maps[0])
    size = {"figsize": (2.45 * heads + 0.8, 2.45 * layers + 0.7), "layout": "constrained", "dpi": 80}
    figure, axes = plt.subplots(layers, heads, squeeze=False, sharex=True, sharey=True, **size)
    for (layer, head), ax in np.ndenumerate(axes):
        attention(maps[layer][head], words, ax, f"layer {layer}, head {head}", splits)
        ax.tick_params(labelsize=7.5)
        ax.label_outer()
        ax.set(xlabel="", ylabel="")
    figure.supxlabel("key: token read from", fontsize=10)
    figure.supylabel("query: token that reads", fontsize=10)
    colours = plt.cm.ScalarMappable(plt.Normalize(0, 1), AMOUNT)
    figure.colorbar(colours, ax=axes, fraction=0.02, pad=0.01).set_label("attention weight (grey: not visible)")
    return axes


def bars(values, ax=None, label="lines right (share)", colour=FROZEN):
    """A horizontal bar for each {label: number}, the number at its end; of a list the mean, and a dot for each."""
    ax = bare(ax or new(6.5, 0.6 + 0.36 * len(values)))
    for y, value in enumerate(values.values()):
        several = np.atleast_1d(value)
        mean, top = several.mean(), several.max()
        ax.barh(y, mean, height=0.62, color=colour)
        if len(several) > 1:
            ax.plot(several, np.full(len(several), y), "o", ms=4, color=INK, alpha=0.6, clip_on=False)
        text = f"{mean:,.0f}" if mean.is_integer() and top > 1 else f"{mean:.2f}"
        ax.annotate(text, (top, y), (7, 0), textcoords="offset points", va="center", fontsize=9, color=INK)
    ax.set_yticks(range(len(values)), values)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.14)
    ax.set_xlim(left=0)
    ax.set_xlabel(label)
    if ax.get_xlim()[1] > 1000:
        ax.xaxis.set_major_formatter("{x:,.0f}")
    return ax


def doors(layers=2, ax=None):
    """The Transformer as a map: the residual stream runs to the right, and three doors are where a method steps in."""
    ax = ax or new(9, 3.8)
    door = SPARE[0]

    def box(x, y, width, height, text, edge=INK, fill="#efefef"):
        ax.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, lw=1.2, zorder=3))
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, color=INK, zorder=4)

    def arrow(*points):
        xs, ys = zip(*points, strict=True)
        ax.plot(xs[:-1], ys[:-1], color=INK, lw=1.2, zorder=1)
        ax.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.2}, zorder=2)

    def mark(x, y, number):
        ax.plot(x, y, "o", ms=15, color=door, zorder=5)
        ax.text(x, y, str(number), ha="center", va="center", color="white", weight="bold", fontsize=9, zorder=6)

    ax.add_patch(Rectangle((3.15, -0.55), 9.75, 4.75, facecolor="none", edgecolor="#999999", ls="--", lw=1))
    ax.text(12.75, 3.9, f"block, {layers} times", ha="right", va="center", fontsize=9, color=INK)
    ax.text(0.45, 0, "tokens", ha="center", va="center", fontsize=9, color=INK)
    arrow((0.95, 0), (1.4, 0))
    box(1.4, -0.35, 1.4, 0.7, "embed", door)
    ax.plot([2.8, 12.9], [0, 0], color=FROZEN, lw=5, zorder=0, solid_capstyle="butt")
    ax.text(3.3, -0.3, "residual stream: (B, T, d)", fontsize=8, color=INK, va="center")
    for x, name, parts in ((3.5, "attn", ("q", "k", "v", "o")), (8.3, "mlp", ("up", "down"))):
        arrow((x + 0.2, 0), (x + 0.2, 0.75))
        box(x - 0.25, 0.75, 0.95, 0.55, f"norm{1 if name == 'attn' else 2}")
        arrow((x + 0.2, 1.3), (x + 0.2, 2.1), (x + 0.8, 2.1))
        box(x + 0.8, 1.45, 2.65, 1.6, "", door, "#ffffff")
        ax.text(x + 2.1, 2.8, name, ha="center", va="center", fontsize=9, color=INK, zorder=4)
        width = 2.25 / len(parts)
        for i, part in enumerate(parts):
            box(x + 1.05 + i * width, 1.7, width - 0.1, 0.75, part, door)
        mark(x + 1.05, 2.45, 1)
        arrow((x + 3.45, 2.1), (x + 3.95, 2.1), (x + 3.95, 0.2))
        mark(x + 3.95, 1.35, 2)
        ax.text(x + 3.95, 0, "+", ha="center", va="center", fontsize=14, weight="bold", color=INK, zorder=4)
    box(5.0, 3.45, 1.6, 0.5, "k v cache", door)
    arrow((5.8, 3.45), (5.8, 3.05))
    mark(5.0, 3.95, 3)
    mark(1.4, 0.35, 3)
    for x, name in ((13.1, "norm"), (14.5, "head")):
        arrow((x - 0.2, 0), (x + 0.05, 0))
        box(x + 0.05, -0.35, 1.05, 0.7, name)
    arrow((15.6, 0), (16.0, 0))
    ax.text(16.1, 0, "logits", va="center", fontsize=9, color=INK)
    names = ("a weight: q k v o, up down", "a sublayer: what attn or mlp adds", "the token stream: embed and the cache")
    for i, (x, name) in enumerate(zip((0.3, 5.3, 11.0), names, strict=True)):
        mark(x, -1.25, i + 1)
        ax.text(x + 0.4, -1.25, name, va="center", fontsize=9, color=INK)
    ax.set_xlim(-0.2, 17.2)
    ax.set_ylim(-1.65, 4.3)
    ax.axis("off")
    return ax


def pareto(rows, ax=None):
    """Accuracy against trainable parameters, one point for each method with the range over seeds.

    rows: dictionaries with `method`, `parameters`, `accuracy` (list over seeds), as `comparison.compare` gives them.
    """
    ax = bare(ax or new(6.5, 3.6))
    rows = sorted(rows, key=lambda row: row["parameters"])
    for row, colour in zip(rows, shades([r["method"] for r in rows]), strict=True):
        values = np.array(row["accuracy"])
        x, y = row["parameters"], values.mean()
        ax.errorbar(x, y, [[y - values.min()], [values.max() - y]], fmt="o", ms=7, capsize=3, color=colour)
        side = -1 if y > 0.5 else 1  # names slant away from the points, down from the top and up from the bottom
        ax.annotate(
            row["method"], (x, y), (5, 5 * side), textcoords="offset points", fontsize=8, color=INK,
            rotation=55 * side, rotation_mode="anchor", va="center",
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_ylim(-0.06, 1.05)
    ax.margins(x=0.1)
    ax.set_xlabel("trainable parameters")
    ax.set_ylabel("lines right (share)\nmean and range over seeds")
    return ax
