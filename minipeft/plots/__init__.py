"""Every figure as a function: data in, matplotlib Axes out. Show or save is the caller's business.

One palette for the whole course (see `style`), and every axis carries a label with its unit.
"""

import matplotlib.pyplot as plt

from minipeft.plots.alike import alike
from minipeft.plots.attention import attention, attention_maps, attention_share, virtual_share
from minipeft.plots.choosing import decisions, scorecard
from minipeft.plots.finetuning import forgetting, memory
from minipeft.plots.general import bars, curves, differs, doors, pareto
from minipeft.plots.methods import (
    activations,
    biases,
    block_error,
    bottleneck,
    fusion_weights,
    levels,
    magnitude_direction,
    rank_map,
    variances,
)
from minipeft.plots.numbers import against
from minipeft.plots.prompts import journey, likeness, nearest, plane, prefix_map, prefixes
from minipeft.plots.quantized import by_bits, code_errors, twins
from minipeft.plots.ranks import rank_grid, triplets
from minipeft.plots.several import along, mixed_batch, one_after_the_other
from minipeft.plots.shifts import common_share, token_changes
from minipeft.plots.structure import STRUCTURES, structure
from minipeft.plots.style import AMOUNT, FROZEN, HUES, INK, SIGNED, SPARE, bare, new, shades
from minipeft.plots.tree import module_tree
from minipeft.plots.variants import principal, rates, shared_pair
from minipeft.plots.weights import elbow, low_rank, spectrum, what_moved

__all__ = [
    "AMOUNT", "FROZEN", "HUES", "INK", "SIGNED", "SPARE", "STRUCTURES", "activations", "against", "alike",
    "along", "attention", "attention_maps", "attention_share", "bare", "bars", "biases", "block_error",
    "bottleneck", "by_bits", "code_errors", "common_share", "curves", "decisions", "differs", "doors", "elbow",
    "forgetting", "fusion_weights", "journey", "levels", "likeness", "low_rank", "magnitude_direction",
    "memory", "mixed_batch", "module_tree", "nearest", "new", "one_after_the_other", "pareto", "plane", "plt",
    "prefix_map", "prefixes", "principal", "rank_grid", "rank_map", "rates", "scorecard", "shades",
    "shared_pair", "spectrum", "structure", "token_changes", "triplets", "twins", "variances", "virtual_share",
    "what_moved",
]  # fmt: skip
