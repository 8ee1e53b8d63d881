"""What all figures share: the palette, one look for each method, and the frames that figures are drawn in.

What is frozen is grey. A method keeps its look in the whole course: a family has one hue and one marker, its members
differ in lightness, in how the marker is filled and in the dash of a line. So they are told apart in grey as well, and
by those who see no red or green. Text has at least 9 points, and a figure is at most `WIDEST` wide, so that a page
shows it without shrinking it.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb

FROZEN = "#b8b8b8"
INK = "#333333"
PALE = "#e6e6e6"  # what is frozen, as an area: so pale that every hue stands out from it in grey print
GREY = "#8a8a8a"  # the same as a line
FAMILIES = {  # marker: hues, which are Okabe and Ito's colours and lighter and darker ones between them
    "*": {"Full": "#000000", "LinearProbe": "#a6761d"},
    "D": {"BitFit": "#cc79a7", "IA3": "#8c3f6b"},
    "s": {"Houlsby": "#009e73", "Pfeiffer": "#00805d", "ParallelAdapter": "#005a43", "AdapterFusion": "#84d087"},
    "^": {"PromptTuning": "#d55e00", "PTuning": "#e69f00", "PrefixTuning": "#8a3300", "PTuningV2": "#f5c36b"},
    "o": {
        "LoRA": "#0072b2", "AdaLoRA": "#56b4e9", "QLoRA": "#003a5c", "DoRA": "#3a93d0", "VeRA": "#9bd0f2",
        "PiSSA": "#00548a",
    },
}  # fmt: skip
HUES = {name: hue for members in FAMILIES.values() for name, hue in members.items()}
SPARE = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")  # for what is no method
FILLS = ("full", "none", "left", "bottom", "right", "top")  # of the marker, by the member of the family
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
SIGNED = LinearSegmentedColormap.from_list("signed", ["#b2432f", "#ffffff", "#0072b2"])  # below zero, zero, above
AMOUNT = LinearSegmentedColormap.from_list("amount", ["#ffffff", "#56b4e9", "#0072b2", "#002b4d"])
WIDEST = 9.0  # inches
ACCURACY = "exact-match accuracy"
LOSS = "loss (nats per token)"


def method(label):
    return str(label).split("(")[0]


def shades(labels):
    """A colour for each label: the method's hue, paler from one label of the same method to the next."""
    names = [method(label) for label in labels]
    strangers = [name for name in dict.fromkeys(names) if name not in HUES]
    taken = {HUES[name] for name in names if name in HUES}
    spare = [hue for hue in SPARE if hue not in taken] or SPARE
    colours, seen = [], {}
    for name in names:
        rgb = np.array(to_rgb(HUES[name] if name in HUES else spare[strangers.index(name) % len(spare)]))
        fade = 0.65 * seen.get(name, 0) / max(1, names.count(name) - 1)
        colours.append(tuple(rgb + (1 - rgb) * fade))
        seen[name] = seen.get(name, 0) + 1
    return colours


def hue(label):
    """The colour of a method that has the figure for itself."""
    return shades([label])[0]


def place(label):
    """The marker of the method's family, and which member of it the method is; a plain dot for what is no method."""
    found = [(marker, list(members)) for marker, members in FAMILIES.items() if method(label) in members]
    return (found[0][0], found[0][1].index(method(label))) if found else ("o", 0)


def mark(label):
    """How a point of the method looks, as keywords of `plot`."""
    marker, member = place(label)
    hollow = {"markerfacecolor": "white"} if FILLS[member] == "none" else {"fillstyle": FILLS[member]}
    return {"marker": marker, "ms": 10 if marker == "*" else 7, "markerfacecoloralt": "white"} | hollow


def dash(label):
    """How a line of the method is dashed."""
    return DASHES[place(label)[1]]


def darker(colour):
    return tuple(0.6 * np.array(to_rgb(colour)))


def luminance(colour):
    """Relative luminance, 0 to 1, as the guidelines for accessible pages (WCAG 2.1) define it."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def contrast(one, other):
    """Contrast ratio of two colours, 1 to 21; text wants 4.5."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def readable(colour):
    """In which colour text can be read on this one: dark grey where that is enough, else black or white."""
    return INK if contrast(INK, colour) >= 4.5 else max("black", "white", key=lambda text: contrast(text, colour))


def short(name):
    """`blocks.0.attn.q.weight` as figures call it: `0.attn.q`."""
    return name.removeprefix("blocks.").removesuffix(".weight").removesuffix(".bias")


def new(width=6.0, height=3.0, columns=1, rows=1, **kwargs):
    """The Axes of a figure, as `plt.subplots` gives them. At 96 dots an inch a screen shows a point as a point."""
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", dpi=96, **kwargs)[1]


def bare(ax):
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def legend(ax, outside=False, **kwargs):
    """A legend without a frame; `outside`: at the right of the Axes, where it covers nothing."""
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if outside else {}
    return ax.legend(**{"frameon": False, "fontsize": 9} | beside | kwargs)


def grid(ax, rows, columns):
    """The frame of a table: a cell of 1 × 1 for each row, counted downwards, and each column, named at the edges."""
    ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=9)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def heatmap(ax, values, colours, low, high, number="", first=0, **kwargs):
    """An image of the values (rows, columns), counted from `first`; `number`: the format in which they are written."""
    values = np.ma.asarray(values)  # what is masked is left out
    rows, columns = np.add(values.shape, first - 0.5)
    image = ax.imshow(
        values, cmap=colours, vmin=low, vmax=high, interpolation="nearest",
        **{"extent": (first - 0.5, columns, rows, first - 0.5)} | kwargs,
    )  # fmt: skip
    for (i, j), value in np.ma.ndenumerate(values if number else values[:0]):
        colour = readable(image.cmap(image.norm(value))[:3])
        ax.text(j + first, i + first, number.format(value), ha="center", va="center", fontsize=9, color=colour)
    ax.tick_params(length=0, labelsize=9)
    return image
