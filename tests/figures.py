"""What tests ask of every figure: that its axes are labelled, and that all its text can be read."""

import matplotlib.pyplot as plt
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
    boxes = [(text.get_text(), extent(text)) for text in texts]
    smaller = [(name, box.padded(-1)) for name, box in boxes]
    return [(a, b) for i, (a, box) in enumerate(smaller) for b, other in smaller[:i] if box.overlaps(other)]


def flaws(figure):
    """What makes a figure hard to read, in words: small text, text that covers text or leaves the figure, its width."""
    figure.draw_without_rendering()
    found = [f"{figure.get_figwidth():.1f} inches wide"] if figure.get_figwidth() > WIDEST else []
    inside = figure.bbox.padded(2)
    for ax in figure.axes:
        unseen = not_drawn(ax)
        texts = [t for t in ax.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in unseen]
        found += [f"{t.get_text()!r} has {t.get_fontsize():g} points" for t in texts if t.get_fontsize() < 9]
        found += [f"{a!r} covers {b!r}" for a, b in overlapping(texts)]
        boxes = {t: extent(t) for t in texts}
        outside = [t for t, box in boxes.items() if not inside.contains(*box.min) or not inside.contains(*box.max)]
        found += [f"{t.get_text()!r} leaves the figure" for t in outside]
    return found


def not_drawn(ax):
    """Tick labels beyond the limits of their axis, or of an axis that is off: they exist, but are not drawn."""
    unseen = set()
    for i, (axis, limits) in enumerate(((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim()))):
        for label in axis.get_ticklabels(which="both"):
            if not ax.axison or not min(limits) <= label.get_position()[i] <= max(limits):
                unseen.add(label)
    return unseen


def close():
    """Close every figure that is open; returns their flaws."""
    found = [flaw for number in plt.get_fignums() for flaw in flaws(plt.figure(number))]
    plt.close("all")
    return found
