"""Figures of weights in few bits: the levels of a code, a matrix beside its rounded copy, errors, accuracy by bits."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from minipeft.methods.qlora import decode, dequantize, encode, levels_of, predicted_bits, quantize
from minipeft.plots.boxes import box, say
from minipeft.plots.style import (
    ACCURACY,
    AMOUNT,
    GREY,
    INK,
    PALE,
    SIGNED,
    SPARE,
    bare,
    heatmap,
    hue,
    legend,
    new,
)

LOOKS = {"nf": (hue("QLoRA"), "o"), "fp": (SPARE[0], "s"), "int": (GREY, "^")}  # of a family of codes


def family(name):
    """ "nf4" is ("nf", 4)."""
    return name.rstrip("0123456789"), int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))


def quantization_levels(names=("nf4", "int4", "fp4"), values=None, block_size=64, ax=None, label="QLoRA"):
    """The levels of 4-bit codes under the density of the values they have to hold.

    names: of `qlora.TYPES`. values: a tensor, cut into blocks that are divided by their largest; normal ones if None.
    A strip for each code: its levels are lines, the cell of each has the colour of the share of values in it.
    """
    ax = bare(ax or new(8, 1.9 + 0.5 * len(names)))
    if values is None:
        values = torch.randn(1000 * block_size, generator=torch.Generator().manual_seed(0))
    values = values.detach().float().cpu().flatten()
    values = values[: len(values) // block_size * block_size]
    scaled = (values.view(-1, block_size) / values.view(-1, block_size).abs().amax(1, keepdim=True)).flatten().numpy()
    σ, x = scaled.std(), np.linspace(-1, 1, 401)
    normal = np.exp(-(x**2) / (2 * σ**2))  # as high as 1
    bins = np.linspace(-1, 1, 82)
    heights = np.histogram(scaled, bins)[0] / (len(scaled) * (bins[1] - bins[0])) * σ * math.sqrt(2 * math.pi)
    ax.stairs(heights, bins, fill=True, color=PALE, label=f"values / largest\nof their {block_size}")
    ax.plot(x, normal, color=INK, lw=1.2, label=f"normal density,\nσ = {σ:.2f}")
    first = levels_of(names[0]).numpy()
    ax.vlines(first, 0, np.interp(first, x, normal), color=hue(label), lw=1, label=f"levels of {names[0]}")
    shares, texts = {}, []
    for name in names:
        table = levels_of(name)
        codes, absmax = encode(values, table, block_size)
        error = (decode(codes, absmax, table, block_size) - values).norm() / values.norm()
        shares[name] = torch.bincount(codes.long(), minlength=len(table)).numpy() / len(codes)
        texts.append(f"{len(table)} levels\nerror {100 * error:.1f} %")
    scale = plt.Normalize(0, max(share.max() for share in shares.values()))
    for i, name in enumerate(names):
        at = levels_of(name).numpy()
        edges, y = [-1, *(at[1:] + at[:-1]) / 2, 1], -0.46 * (i + 1)
        for left, right, share in zip(edges, edges[1:], shares[name], strict=False):
            box(ax, left, y, right - left, 0.28, face=AMOUNT(scale(share)), edge="white")
        ax.vlines(at, y - 0.04, y + 0.32, color=INK, lw=1.4)
        say(ax, 1.05, y + 0.14, texts[i], align="left")
    ax.set(xlim=(-1.02, 1.02), ylim=(-0.46 * len(names) - 0.08, 1.08))
    ax.set_yticks([0.14 - 0.46 * (i + 1) for i in range(len(names))], names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("value / largest of its block")
    ax.set_ylabel("density", y=(0.46 * len(names) + 0.6) / (0.46 * len(names) + 1.16))
    legend(ax, loc="upper left", bbox_to_anchor=(-0.02, 1.05), handlelength=1.2)
    bar = ax.figure.colorbar(plt.cm.ScalarMappable(scale, AMOUNT), ax=ax, pad=0.02, fraction=0.03)
    bar.set_label("values in the cell (share)")
    return ax


def quantized_weights(W, quant_types=("nf4", "nf2"), block_size=64, corner=20):
    """A corner of W, above it quantized, below the error of that; one scale for all. Axes (2, 1 + codes).

    The first Axes below is empty but for the scale. Errors in the titles are ‖Ŵ − W‖ / ‖W‖ of the whole matrix.
    """
    W = W.detach().float().cpu()
    axes = new(2.2 * (1 + len(quant_types)), 4.7, columns=1 + len(quant_types), rows=2)
    limit = W.abs().max().item()

    def show(ax, values, title):
        image = heatmap(ax, values[:corner, :corner].numpy(), SIGNED, -limit, limit)
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[], yticks=[])
        return image

    image = show(axes[0, 0], W, f"W, {min(corner, len(W))} rows of {len(W)}")
    axes[0, 0].set_ylabel("output", fontsize=9)
    axes[0, 0].set_xlabel("input", fontsize=9)
    axes[1, 0].axis("off")
    axes[1, 0].figure.colorbar(image, ax=axes[1, 0], location="top", fraction=0.2, label="weight, or its error")
    for (above, below), name in zip(axes.T[1:], quant_types, strict=True):
        rounded = dequantize(quantize(W, name, block_size, False), W.shape, name, block_size)
        error = (rounded - W).norm() / W.norm()
        show(above, rounded, f"Ŵ in {name}: {len(levels_of(name))} levels")
        show(below, rounded - W, f"Ŵ − W: error {100 * error:.1f} %")
    return axes


def quantization_errors(errors, ax=None):
    """The error of each code for each kind of weights, a mark for each seed or matrix.

    errors: {kind of weights: {code: numbers, ‖Ŵ − W‖ / ‖W‖}}.
    """
    ax = bare(ax or new(7.5, 0.9 + 0.55 * len(errors)))
    seen = set()
    for y, by_code in enumerate(errors.values()):
        for row, (name, values) in enumerate(by_code.items()):
            colour, marker = LOOKS[family(name)[0]]
            at = np.full(np.size(values), y + 0.22 * (row - (len(by_code) - 1) / 2))
            label = None if name in seen else name
            ax.plot(100 * np.atleast_1d(values), at, marker, color=colour, ms=6, alpha=0.75, mew=0, label=label)
            seen.add(name)
        ax.axhline(y + 0.5, color=PALE, lw=0.8, zorder=0)
    ax.set_yticks(range(len(errors)), errors)
    ax.set_ylim(len(errors) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(left=0)
    ax.set_xlabel("error ‖Ŵ − W‖ / ‖W‖ (%)")
    legend(ax, outside=True)
    return ax


def block_error(W, outlier=20.0, block_size=64, quant_type="nf4", sizes=(16, 32, 64, 128, 256, 512), axes=None,
                label="QLoRA"):  # fmt: skip
    """What one outlier does to the block it is in, left, and what the size of the blocks does to that, right.

    W is rounded as it is, and once more with one value raised to `outlier` standard deviations. An error is the root
    mean square of what rounding changes, over the standard deviation of W; the outlier itself does not count.
    """
    left, right = axes = new(9, 3, columns=2) if axes is None else axes
    clean = W.detach().float().cpu().flatten()
    whole = math.lcm(block_size, *sizes)
    if len(clean) < whole:
        raise ValueError(f"W has {len(clean)} values, blocks of up to {max(sizes)} need {whole}; take smaller sizes")
    clean = clean[: len(clean) // whole * whole]
    place, σ = len(clean) // 2, clean.std()
    spoiled = clean.clone()
    spoiled[place] = outlier * σ
    others = torch.arange(len(clean)) != place

    def squares(values, block):
        """The squared error of each value, in units of σ²."""
        table = levels_of(quant_type)
        return ((decode(*encode(values, table, block), table, block) - values) / σ) ** 2 * others

    series = {"no outlier": (clean, GREY), f"one value at {outlier:g} σ": (spoiled, hue(label))}
    here = place // block_size
    near = slice(max(0, here - 15), here + 17)  # blocks to be drawn
    for name, (values, colour) in reversed(series.items()):  # grey in front: the rest is what the outlier did
        errors = squares(values, block_size).view(-1, block_size).mean(1).sqrt().numpy()
        left.bar(np.arange(len(errors))[near], errors[near], width=0.8, color=colour, label=name)
        if values is spoiled:
            left.annotate("block of the outlier", (here, errors[here]), (6, -2), textcoords="offset points", fontsize=9)
    left.axhline(1, color=INK, lw=0.8, ls=":")
    left.text(near.start, 1.02, "if all were rounded to zero", fontsize=9, color=INK, va="bottom")
    bare(left).set_ylim(0, 1.18)
    left.set_xlabel(f"block of {block_size} values (index)")
    left.set_ylabel("error of the block (σ of W)")
    for (name, (values, colour)), marker in zip(series.items(), "so", strict=True):
        errors = [float(squares(values, block).mean().sqrt()) for block in sizes]
        right.plot(sizes, errors, "-", marker=marker, color=colour, label=name)
    bare(right).set_xscale("log", base=2)
    right.minorticks_off()
    right.set_xticks(sizes, [f"{block}\n{predicted_bits(block, double_quant=False):.3g}" for block in sizes])
    right.set_ylim(bottom=0)
    right.set_xlabel("values in a block\n(below: bits stored per weight)")
    right.set_ylabel("error of all values (σ of W)")
    legend(right)
    return axes


def accuracy_by_bits(before, after=None, ax=None, label=ACCURACY):
    """What the number of bits costs, a line for each family of codes: hollow marks as rounded, filled ones trained.

    before: {code, such as "nf3": number}. after: {code: numbers over seeds}, for as many codes as were trained.
    """
    ax, after = bare(ax or new(6.5, 3.2)), after or {}
    families = {}
    for name in before:
        families.setdefault(family(name)[0], []).append(name)
    for i, (kind, names) in enumerate(families.items()):
        colour, marker = LOOKS[kind]
        names = sorted(names, key=family)
        places = {name: family(name)[1] + 0.1 * (i - (len(families) - 1) / 2) for name in names}
        style = {"color": colour, "marker": marker, "ms": 7}
        y = [before[name] for name in names]
        ax.plot(list(places.values()), y, ls=":", mfc="white", label=f"{kind}, rounded", **style)
        trained = {places[name]: np.atleast_1d(after[name]) for name in names if name in after}
        if trained:
            ax.plot(list(trained), [v.mean() for v in trained.values()], label=f"{kind}, then LoRA", **style)
            for place, values in trained.items():
                ax.plot(np.full(len(values), place), values, "o", ms=3, color=INK, zorder=4)
    ax.set_xticks(sorted({family(name)[1] for name in before}))
    ax.set_ylim(-0.04, 1.06)
    ax.set_xlabel("bits of a code")
    ax.set_ylabel(label)
    legend(ax, loc="lower right")
    return ax


def places_in_cells(values, quant_type="nf4", block_size=64, reach=None, axes=None):
    """How far each value lies from its level, in steps: at ±½ the next code begins. An Axes for each tensor.

    values: {title: tensor}. A step is the distance to the next level on that side. reach: how far a typical change
    moves a value, in steps; drawn as a band from either edge, because what lies in it may change its code.
    """
    axes = np.atleast_1d(new(8, 2.6, columns=len(values)) if axes is None else axes)
    table = levels_of(quant_type)
    gaps = table.diff()
    below, above = torch.cat([gaps[:1], gaps]), torch.cat([gaps, gaps[-1:]])
    bins = np.linspace(-0.5, 0.5, 52)  # the middle one around the level
    for (title, tensor), ax in zip(values.items(), axes, strict=True):
        codes, absmax = encode(tensor.detach().float(), table, block_size)
        codes = codes[: tensor.numel()].long()
        off = tensor.detach().float().flatten() / absmax.repeat_interleave(block_size)[: len(codes)] - table[codes]
        steps = off / torch.where(off > 0, above[codes], below[codes])
        shares = np.histogram(steps.numpy(), bins)[0] / len(steps)
        bare(ax).stairs(100 * shares, bins, fill=True, color=hue("QLoRA"))
        for edge in (-0.5, 0.5):
            ax.axvline(edge, color=INK, lw=1, ls=":")
            if reach:
                ax.axvspan(edge, edge - math.copysign(reach, edge), color=SPARE[0], alpha=0.5, lw=0)
        ax.set_title(title, fontsize=10)
        ax.set_xticks([-0.5, 0, 0.5], ["−½", "its level", "½"])
        ax.set_xlabel("distance from the level (steps)")
        ax.set_xlim(-0.54, 0.54)
    axes[0].set_ylabel("weights (%)")
    return axes


def rounded_changes(learned, arrived, ax=None, most=3000):
    """What arrives of the changes of weights that are rounded afterwards: a dot for each of the first `most`.

    learned, arrived: tensors of equal shape. The line is where all of a change arrives.
    """
    ax = bare(ax or new(6, 3.2))
    x, y = (1000 * t.detach().float().cpu().flatten()[:most].numpy() for t in (learned, arrived))
    end = np.quantile(np.abs(x), 0.98)  # the few that are larger would only make the steps small
    ax.plot([-end, end], [-end, end], color=GREY, lw=1, label="all of it")
    ax.plot(x, y, ".", ms=3, color=SPARE[0], label="one weight")
    ax.set_xlabel("ΔW that was learned (thousandths)")
    ax.set_ylabel("ΔW that arrives\n(thousandths)")
    ax.set(xlim=(-end, end), ylim=(-1.1 * end, 1.1 * end))
    legend(ax)
    return ax
