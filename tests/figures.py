"""What tests ask of every figure: that its axes are labelled, and that all its text can be read."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.text import Text

from minipeft.plots.style import WIDEST


def labelled(ax):
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    return ax


def extent(text):
    """Where a text stands, without the arrow that an annotation has."""
    return Text.get_window_extent(text)


def overlapping(texts):
    """Pairs of texts that cover each other, by more than the pixel that their frames are rounded by."""
    for figure in {text.figure for text in texts}:
        figure.draw_without_rendering()
    boxes = [(text.get_text(), extent(text)) for text in texts]
    smaller = [(name, box.padded(-1)) for name, box in boxes]
    return [(a, b) for i, (a, box) in enumerate(smaller) for b, other in smaller[:i] if box.overlaps(other)]


def flaws(figure):
    """What makes a figure hard to read, in words: small text, text that covers text or leaves the figure, its width."""
    figure.draw_without_rendering()
    found = [f"{figure.get_figwidth():.1f} inches wide"] if figure.get_figwidth() > WIDEST else []
    for ax in figure.axes:
        texts = [t for t in ax.findobj(Text) if t.get_visible() and t.get_text().strip()]
        texts = [t for t in texts if np.all(np.isfinite(extent(t).bounds)) and shown(t, ax)]
        found += [f"{t.get_text()!r} has {t.get_fontsize():g} points" for t in texts if t.get_fontsize() < 9]
        found += [f"{a!r} covers {b!r}" for a, b in overlapping(texts)]
        outside = [t for t in texts if not figure.bbox.padded(2).contains(*extent(t).min)]
        outside += [t for t in texts if not figure.bbox.padded(2).contains(*extent(t).max)]
        found += [f"{t.get_text()!r} leaves the figure" for t in outside]
    return found


def shown(text, ax):
    """Tick labels that lie beyond the limits of their axis, or of an axis that is off, exist, but are not drawn."""
    for axis, (low, high), i in ((ax.xaxis, ax.get_xlim(), 0), (ax.yaxis, ax.get_ylim(), 1)):
        if text in axis.get_ticklabels(which="both"):
            return ax.axison and min(low, high) <= text.get_position()[i] <= max(low, high)
    return True


def close():
    """Close every figure that is open; returns their flaws."""
    found = [flaw for number in plt.get_fignums() for flaw in flaws(plt.figure(number))]
    plt.close("all")
    return found
