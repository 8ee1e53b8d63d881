"""Every figure as a function: data in, matplotlib Axes out. Show or save is the caller's business.

One palette for the whole course (see `style`), and every axis carries a label with its unit.
"""

import matplotlib.pyplot as plt

from minipeft.plots.attention import attention, attention_maps, attention_share, virtual_share
from minipeft.plots.general import bars, curves, doors, pareto
from minipeft.plots.prompts import journey, likeness, nearest, plane, prefix_map, prefixes
from minipeft.plots.style import AMOUNT, FROZEN, HUES, INK, SIGNED, SPARE, bare, new, shades
from minipeft.plots.weights import elbow, low_rank, spectrum, what_moved

__all__ = [
    "AMOUNT", "FROZEN", "HUES", "INK", "SIGNED", "SPARE", "attention", "attention_maps", "attention_share", "bare",
    "bars", "curves", "doors", "elbow", "journey", "likeness", "low_rank", "nearest", "new", "pareto", "plane", "plt",
    "prefix_map", "prefixes", "shades", "spectrum", "virtual_share", "what_moved",
]  # fmt: skip
