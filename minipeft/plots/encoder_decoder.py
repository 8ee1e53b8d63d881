"""Figures of an encoder-decoder: its three beginnings, where its answer reads, what a method does at each place."""

import numpy as np
import torch

from minipeft.plots.boxes import arrow, box, disc, say
from minipeft.plots.style import ACCURACY, AMOUNT, INK, SPARE, WIDEST, bare, heatmap, new

PLACES = {"encoder": SPARE[4], "memory": SPARE[3], "decoder": SPARE[1]}  # a colour for each beginning


def three_places(ax=None):
    """An encoder-decoder as a map: coloured boxes are what a method may put in front of its three sequences."""
    ax = ax or new(9, 4.1)
    words = ":", "c", "a", "d", "…"
    row(ax, 0.9, 0, 1, words)
    say(ax, 3.9, -0.55, "the source")
    arrow(ax, (4.0, 0.75), (4.0, 1.5))
    box(ax, 0.9, 1.5, 6.2, 2.1, "encoder, 2 blocks\nattention in both directions\nMLP")
    arrow(ax, (4.0, 3.6), (4.0, 4.6))
    row(ax, 0.9, 4.6, None, ("h",) * len(words))
    say(ax, 4.9, 5.7, "a vector for each token")
    arrow(ax, (7.1, 4.95), (7.9, 4.95))
    row(ax, 8.6, 4.6, 2, ("k, v",) * len(words))
    say(ax, 11.6, 5.7, "the memory: keys and values")
    box(ax, 15.5, 1.5, 4.2, 3.9, face="white")
    for y, name in ((1.75, "attention"), (3.0, "cross-attention"), (4.25, "MLP")):
        box(ax, 15.9, y, 3.4, 0.85, name)
    for y in (2.6, 3.85):
        arrow(ax, (17.6, y), (17.6, y + 0.4))
    say(ax, 19.9, 2.3, "decoder,\n2 blocks", align="left")
    arrow(ax, (14.85, 4.95), (15.2, 4.95), (15.2, 3.42), (15.9, 3.42))
    row(ax, 14.5, 0, 3, ("=", "j", "n", "d", "…"))
    say(ax, 17.5, -0.55, "the answer so far")
    arrow(ax, (17.6, 0.75), (17.6, 1.75))
    arrow(ax, (17.6, 5.1), (17.6, 6.4))
    row(ax, 14.5, 6.4, None, ("j", "n", "d", "g", "…"))
    say(ax, 20.95, 6.75, "next", align="left")
    ax.set(xlim=(-0.2, 22.6), ylim=(-0.95, 7.2))
    ax.axis("off")
    return ax


def row(ax, x, y, number, words):
    """A sequence: room for two vectors in front, coloured and numbered where a method may put some, then the words."""
    colours = dict(enumerate(PLACES.values(), 1))
    for i in range(2) if number else ():
        box(ax, x + 0.9 * i, y, 0.8, 0.7, face=colours[number])
    if number:
        disc(ax, x - 0.3, y + 0.35, number, "white", INK)
    for i, word in enumerate(words):
        box(ax, x + 1.9 + 0.88 * i, y, 0.82, 0.7, word)


def accuracy_by_place(found, axes=None):
    """Dots of accuracy, one for each run, a row for each place and an Axes for each task.

    found: {task: {place: [accuracy of each run]}}. A bar stands at their mean, which is written beside it.
    """
    if axes is None:
        places = max(map(len, found.values()))
        axes = new(WIDEST, 1.0 + 0.38 * places, columns=len(found), sharey=True)
    axes = np.atleast_1d(axes)
    for (task, by_place), ax in zip(found.items(), axes, strict=True):
        for y, (place, values) in enumerate(by_place.items()):
            colour = PLACES.get(place, INK)
            mean = float(np.mean(values))
            ax.barh(y, mean, height=0.5, color=colour, alpha=0.35)
            ax.plot(values, [y] * len(values), "o", ms=6, color=colour, mec=INK, mew=0.6, clip_on=False)
            say(ax, 1.08, y, f"{mean:.2f}", align="left")
        bare(ax).set_title(task, fontsize=10)
        ax.set(xlim=(0, 1.02), ylim=(len(by_place) - 0.5, -0.5), xlabel=ACCURACY)
        ax.set_xticks([0, 0.5, 1])
        ax.set_yticks(range(len(by_place)), by_place)
        ax.tick_params(axis="y", length=0)
    return axes


def where_answers_read(readings, axes=None):
    """Maps of cross-attention: a row for each token of the answer, a column for what it may read.

    readings: {title: (weights (U, n+T), words of the source, words of the answer)}. Columns beyond the words, n of
    them, are what a method put in front of the memory: P1, P2, … Up to four maps stand in a row.
    """
    if axes is None:
        axes = new(min(WIDEST, 0.6 + 2.4 * len(readings)), 2.9, columns=len(readings))
    axes = np.atleast_1d(axes)
    for (title, (weights, source, answer)), ax in zip(readings.items(), axes, strict=True):
        weights = np.asarray(torch.as_tensor(weights).detach().cpu())
        n = weights.shape[1] - len(source)
        heatmap(ax, weights, AMOUNT, 0, 1, aspect="auto")
        if n:
            ax.axvline(n - 0.5, color=INK, lw=1.5)
        upright = 90 if max(map(len, source)) > 2 else 0
        names = [f"P{i + 1}" for i in range(n)] + list(source)
        ax.set_xticks(range(len(names)), names, fontsize=9, rotation=upright)
        ax.set_yticks(range(len(answer)), answer, fontsize=9)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("reads")
    axes[0].set_ylabel("writes")
    bar = ax.figure.colorbar(ax.images[0], ax=axes, shrink=0.9, aspect=30, pad=0.02)
    bar.set_label("attention weight")
    return axes


def prefix_by_token(maps, words, virtual, ax=None):
    """How much each token reads from what stands in front: a row for each layer and head, a column for each token.

    maps: for each layer the weights (H, T, n+T), of which the first `virtual` keys stand in front. words: the tokens.
    """
    shares = torch.cat([torch.as_tensor(w).detach().cpu()[..., :virtual].sum(-1) for w in maps])  # (L·H, T)
    names = [f"layer {layer}, head {head}" for layer, w in enumerate(maps, 1) for head in range(len(w))]
    ax = ax or new(0.6 * len(words) + 2.6, 0.32 * len(names) + 1.1)
    heatmap(ax, shares, AMOUNT, 0, 1, "{:.2f}", aspect="auto")
    ax.set_xticks(range(len(words)), words)
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("token of the source")
    ax.set_ylabel("attention of the encoder")
    for after in np.cumsum([len(w) for w in maps])[:-1]:
        ax.axhline(after - 0.5, color=INK, lw=1.5)
    bar = ax.figure.colorbar(ax.images[0], ax=ax, pad=0.02)
    bar.set_label("share of its attention\nthat the prefix gets")
    return ax
