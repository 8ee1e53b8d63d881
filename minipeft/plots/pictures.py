"""Figures of pictures: samples, how a picture is cut into patches, where the class token of a ViT looks."""

import numpy as np
import torch
from matplotlib.patches import Rectangle

from minipeft.models.transformer import recording
from minipeft.plots.boxes import say
from minipeft.plots.style import AMOUNT, FROZEN, HUES, INK, WIDEST, new

GREYS = "gray"  # 0 is black, 1 is white, as in the data


def pictures(found, ax=None):
    """Rows of pictures, {title: (n, side, side)}; the longest row tells the width."""
    rows = {title: as_array(images) for title, images in found.items()}
    n, side = max(map(len, rows.values())), next(iter(rows.values())).shape[-1]
    gap, names = 2, 0.09 * max(map(len, rows)) + 0.3  # pixels; inches
    ax = ax or new(min(WIDEST, names + 0.52 * n), 0.2 + 0.53 * len(rows))
    sheet = np.ones((len(rows) * (side + gap) - gap, n * (side + gap) - gap))
    for y, images in enumerate(rows.values()):
        for x, image in enumerate(images):
            top, left = y * (side + gap), x * (side + gap)
            sheet[top : top + side, left : left + side] = image
    ax.imshow(sheet, cmap=GREYS, vmin=0, vmax=1, interpolation="nearest")
    ax.set_yticks([y * (side + gap) + side / 2 for y in range(len(rows))], rows, fontsize=9)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.figure.draw_without_rendering()  # the first layout does not know yet how narrow square pixels make the Axes
    return ax


def patches(image, size, axes=None):
    """A picture (side, side) cut into squares of `size` pixels, numbered; beside it the sequence that a ViT reads.

    The class token, c, has position 0; patch i has position i.
    """
    image = as_array(image)
    rows = image.shape[-1] // size
    N = rows**2
    axes = new(8.6, 2.6, columns=2, width_ratios=(1, 2.4)) if axes is None else axes
    whole, sequence = axes
    whole.imshow(image, cmap=GREYS, vmin=0, vmax=1, interpolation="nearest")
    for i in range(1, rows):
        for rule in (whole.axhline, whole.axvline):
            rule(i * size - 0.5, color=HUES["PromptTuning"], lw=1.2)
    whole.set_title(f"{image.shape[-1]} × {image.shape[-1]} pixels, {N} patches", fontsize=9)
    across = -(-(N + 1) // 2)  # the sequence in two lines
    sequence.set(xlim=(-0.1, across * 1.25), ylim=(3.2, -0.55), aspect="equal")
    for place in range(N + 1):
        y, x = divmod(place, across)
        left, top = 1.25 * x, 1.75 * y
        if place:
            above, aside = divmod(place - 1, rows)
            square = image[above * size : (above + 1) * size, aside * size : (aside + 1) * size]
            extent = (left, left + 1, top + 1, top)
            sequence.imshow(square, cmap=GREYS, vmin=0, vmax=1, interpolation="nearest", extent=extent)
        else:
            say(sequence, left + 0.5, top + 0.5, "c")
        sequence.add_patch(Rectangle((left, top), 1, 1, fill=False, ec=INK, lw=0.8))
        say(sequence, left + 0.5, top - 0.25, str(place))
    sequence.set(xlim=(-0.1, across * 1.25), ylim=(3.2, -0.55))
    sequence.set_title("the sequence, with positions", fontsize=9)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return axes


@torch.no_grad()
def class_attention(model, images, layer=-1):
    """How the class token of a ViT spreads its attention over the patches, (B, rows, columns): the mean over heads.

    What it gives to itself and to vectors in front is left out, and the rest is scaled to sum to one.
    """
    N = model.config.patches
    with recording(model) as layers:
        model(images)
    weights = layers[layer].weights[:, :, -1 - N, -N:].mean(1)  # (B, N)
    return (weights / weights.sum(1, keepdim=True)).unflatten(1, (int(N**0.5), -1))


def attention_on_pictures(images, maps, axes=None):
    """Where class tokens look: a row for each of {label: (B, rows, columns)}, a column for each picture (B, s, s).

    The pictures, white on black, are drawn as outlines over the maps.
    """
    images = as_array(images)
    shape = len(maps), len(images)
    size = {"rows": shape[0], "columns": shape[1], "squeeze": False}
    axes = new(min(WIDEST, 1.9 + 0.95 * shape[1]), 0.5 + 0.98 * shape[0], **size) if axes is None else axes
    side, top = images.shape[-1], max(float(torch.as_tensor(m).max()) for m in maps.values())
    for (label, weights), row in zip(maps.items(), axes, strict=True):
        for image, grid, ax in zip(images, as_array(weights), row, strict=True):
            extent = (-0.5, side - 0.5, side - 0.5, -0.5)
            shown = ax.imshow(grid, cmap=AMOUNT, vmin=0, vmax=top, interpolation="nearest", extent=extent)
            ax.contour(image, levels=[0.5], colors=HUES["PromptTuning"], linewidths=1.2)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_color(FROZEN)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    bar = row[0].figure.colorbar(shown, ax=axes, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("share of attention", fontsize=9)
    return axes


def as_array(images):
    return np.asarray(torch.as_tensor(images).detach().cpu().float())
