"""The world of pictures and captions: what it shows, how a dual encoder compares, and what an update costs.

captioned(images, captions)     pictures, and below each its caption
two_towers()                    the dual encoder as a map; grey is frozen, coloured is where a method can stand
similarities(cosines, ...)      every picture against every caption
frontier(found)                 accuracy on dark against plain pictures, for parts of one update
"""

import textwrap

import numpy as np

from minipeft.plots.boxes import arrow, box, say, sheet, sign
from minipeft.plots.style import HUES, INK, SIGNED, bare, heatmap, new


def captioned(rows, captions=(), axes=None):
    """Pictures in rows, {name: pictures (n, 3, side, side), from 0 to 1}; captions (n) stand below the last."""
    count = len(next(iter(rows.values())))
    if axes is None:
        axes = new(1.5 * count, 0.6 * bool(captions) + 1.4 * len(rows), columns=count, rows=len(rows))
    axes = np.reshape(axes, (len(rows), count))
    for (name, images), line in zip(rows.items(), axes, strict=True):
        for ax, image in zip(line, images, strict=True):
            ax.imshow(np.moveaxis(np.asarray(image), 0, -1), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=9)
    for ax, caption in zip(axes[-1], captions, strict=bool(captions)):
        ax.set_xlabel(textwrap.fill(caption.replace(" .", "\u00a0."), 17), fontsize=9)
    return axes


def two_towers(ax=None):
    """A dual encoder: two towers, two projections, vectors of length 1, and a table of every pair."""
    ax = sheet(ax or new(8.8, 2.8), 108, 34)
    for y, what, tower, hue, W, shape in (
        (21, "pictures\n(B, 3, 24, 24)", "image: a ViT", HUES["LoRA"], "W image", "u (B, w)"),
        (3, "captions\n(C, T)", "text: a Transformer", HUES["PromptTuning"], "W text", "v (C, w)"),
    ):
        say(ax, 8, y + 5, what)
        arrow(ax, (16, y + 5), (20, y + 5))
        box(ax, 20, y, 22, 10, tower, edge=hue, lw=2)
        arrow(ax, (42, y + 5), (45, y + 5))
        box(ax, 45, y + 2, 10, 6, W)
        arrow(ax, (55, y + 5), (58, y + 5))
        box(ax, 58, y + 2, 10, 6, "÷ length")
        arrow(ax, (68, y + 5), (82, y + 5), (82, 22.2 if y > 17 else 11.8), text=shape, above=1.8)
    sign(ax, 82, 17, "·")
    arrow(ax, (84.5, 17), (88, 17))
    box(ax, 88, 14, 7, 6, "· eˢ")
    arrow(ax, (95, 17), (98.5, 17))
    say(ax, 103, 17, "logits\n(B, C)")
    return ax


def similarities(cosines, pictures, captions, ax=None):
    """A table of cosines (B, C): rows are the pictures, columns the captions, both by their names."""
    cosines = np.asarray(cosines)
    ax = ax or new(2.2 + 0.72 * len(captions), 1.5 + 0.36 * len(pictures))
    image = heatmap(ax, cosines, SIGNED, -1, 1, number="{:.2f}", aspect="auto")
    ax.set_xticks(range(len(captions)), captions, rotation=30, ha="right", fontsize=9)
    ax.set_yticks(range(len(pictures)), pictures, fontsize=9)
    ax.set(xlabel="captions", ylabel="pictures")
    ax.figure.colorbar(image, ax=ax, label="cosine", shrink=0.9)
    return ax


def frontier(found, ax=None):
    """Dark against plain pictures, {share of the update: (accuracies on dark, on plain pictures)}, joined by a line."""
    ax = bare(ax or new(5.4, 3.6))
    means = {share: (np.mean(plain), np.mean(dark)) for share, (dark, plain) in found.items()}
    ax.plot(*zip(*means.values(), strict=True), "-o", color=HUES["LoRA"], ms=6)
    for share, point in means.items():
        ax.annotate(f"×{share:g}", point, (7, 6), textcoords="offset points", fontsize=9, color=INK)
    ax.set(xlabel="accuracy on plain pictures", ylabel="accuracy on dark pictures", ylim=(0, 1.08))
    ax.margins(x=0.15)
    return ax
