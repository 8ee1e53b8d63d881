"""Boxes, arrows and what is written on them: one kit for every figure that is drawn and not plotted.

All functions draw on an Axes in its own units. A box is as pale as what is frozen unless it gets another `face`; its
text stands in its middle, in a colour that can be read on it.
"""

from matplotlib.patches import Polygon, Rectangle

from minipeft.plots.style import INK, PALE, darker, readable


def sheet(ax, width, height, low=0.0):
    """An empty Axes to draw on, from (0, low) to (width, height), y upwards; one unit is as long both ways."""
    ax.set(xlim=(0, width), ylim=(low, height), aspect="equal")
    ax.axis("off")
    return ax


def say(ax, x, y, text, size=9, align="center", **look):
    """Text, its middle at this height."""
    style = {"va": "center", "fontsize": size, "color": INK, "zorder": 5, "linespacing": 1.2}
    return ax.text(x, y, text, ha=align, **style | look)


def box(ax, x, y, width, height, text="", face=PALE, edge=None, lw=1, gid=None, **look):
    """A box with (x, y) as its lower left corner; `look` is of its text. Returns the patch."""
    edge = darker(face) if edge is None else edge
    patch = Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, lw=lw, gid=gid, zorder=2)
    if text:
        say(ax, x + width / 2, y + height / 2, text, **{"color": readable(face)} | look)
    return ax.add_patch(patch)


def funnel(ax, x, y, width, height, text, face=PALE, opens=False):
    """A matrix that makes vectors shorter from left to right, or longer: it narrows to a half, or opens from it."""
    middle = y + height / 2
    left, right = (height / 4, height / 2) if opens else (height / 2, height / 4)
    corners = [(x, middle - left), (x, middle + left), (x + width, middle + right), (x + width, middle - right)]
    ax.add_patch(Polygon(corners, facecolor=face, edgecolor=darker(face), lw=1, zorder=2))
    say(ax, x + width / 2, middle, text, color=readable(face))


def arrow(ax, *points, text="", above=0.9):
    """A line through the points with a head at its end; the text stands `above` its first piece."""
    xs, ys = zip(*points, strict=True)
    ax.plot(xs[:-1], ys[:-1], color=INK, lw=1, zorder=1, solid_joinstyle="miter")
    head = {"arrowstyle": "-|>", "color": INK, "lw": 1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", points[-1], points[-2], arrowprops=head)
    if text:
        say(ax, (xs[0] + xs[1]) / 2, max(ys[:2]) + above, text)


def sign(ax, x, y, text="+"):
    """Where two ways meet: a sum or a product in a circle."""
    circle = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": INK, "lw": 1}
    say(ax, x, y, text, size=11, bbox=circle)


def disc(ax, x, y, text, face, edge=None, size=15, zorder=5):
    """A number on a disc, or in a ring if its face is white."""
    ax.plot(x, y, "o", ms=size, mfc=face, color=edge or face, zorder=zorder)
    say(ax, x, y, text, color=edge or readable(face), va="center_baseline", zorder=zorder, weight="bold")
