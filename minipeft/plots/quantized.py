"""Figures for weights in few bits: a matrix beside its rounded twin, the error of each code, what the bits cost."""

import matplotlib.pyplot as plt
import numpy as np

from minipeft.methods.qlora import dequantize, levels_of, quantize
from minipeft.plots.style import GREY, INK, SIGNED, SPARE, bare, hue, new

LOOKS = {"nf": (hue("QLoRA"), "o"), "fp": (SPARE[0], "s"), "int": (GREY, "^")}  # of a family of codes


def family(name):
    """ "nf4" is ("nf", 4)."""
    return name.rstrip("0123456789"), int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))


def twins(W, quant_types=("nf4", "nf2"), block_size=64, corner=20):
    """A corner of W, above it rounded, below what rounding changed; one scale for all. Axes (2, 1 + codes).

    The first Axes below is empty but for the scale. Errors in the titles are ‖Ŵ − W‖ / ‖W‖ of the whole matrix.
    """
    W = W.detach().float().cpu()
    columns = 1 + len(quant_types)
    axes = plt.subplots(2, columns, figsize=(2.1 * columns, 4.5), layout="constrained", dpi=80)[1]
    limit = W.abs().max().item()

    def show(ax, values, title):
        image = ax.imshow(values[:corner, :corner].numpy(), cmap=SIGNED, vmin=-limit, vmax=limit)
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


def code_errors(errors, ax=None):
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
        ax.axhline(y + 0.5, color="#e6e6e6", lw=0.8, zorder=0)
    ax.set_yticks(range(len(errors)), errors)
    ax.set_ylim(len(errors) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(left=0)
    ax.set_xlabel("error ‖Ŵ − W‖ / ‖W‖ (%)")
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def by_bits(before, after=None, ax=None, label="lines right (share)"):
    """What the number of bits costs, a line for each family of codes: hollow marks as rounded, filled ones trained.

    before: {code, such as "nf3": number}. after: {code: numbers over seeds}, for as many codes as were trained.
    """
    ax = bare(ax or new(6.5, 3.2))
    families = {}
    for name in before:
        families.setdefault(family(name)[0], []).append(name)
    for i, (kind, names) in enumerate(families.items()):
        colour, marker = LOOKS[kind]
        names = sorted(names, key=family)
        x = [family(name)[1] + 0.1 * (i - (len(families) - 1) / 2) for name in names]
        style = {"color": colour, "marker": marker, "ms": 7}
        ax.plot(x, [before[name] for name in names], ls=":", mfc="white", label=f"{kind}, rounded", **style)
        there = [
            (place, np.atleast_1d(after[name])) for place, name in zip(x, names, strict=True) if name in (after or {})
        ]
        if there:
            ax.plot([p for p, _ in there], [v.mean() for _, v in there], label=f"{kind}, then LoRA", **style)
            for place, values in there:
                ax.plot(np.full(len(values), place), values, "o", ms=3, color=INK, zorder=4)
    ax.set_xticks(sorted({family(name)[1] for name in before}))
    ax.set_ylim(-0.04, 1.06)
    ax.set_xlabel("bits of a code")
    ax.set_ylabel(label)
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    return ax
