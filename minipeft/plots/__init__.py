"""Every figure as a function: data in, matplotlib Axes out. Show or save is the caller's business.

One palette for the whole course (see `style`), and every axis carries a label with its unit.
"""

import matplotlib.pyplot as plt

from minipeft.plots.activations import (
    adapter_activations,
    bottleneck,
    common_share,
    explained_variance,
    token_changes,
)
from minipeft.plots.attention import attention, attention_maps, attention_share, fusion_weights, virtual_share
from minipeft.plots.encoder_decoder import accuracy_by_place, prefix_by_token, three_places, where_answers_read
from minipeft.plots.heads import heads
from minipeft.plots.language import quantized_block, rotations, shared_heads
from minipeft.plots.ledger import bits_stored, effects, fixed_and_tuned
from minipeft.plots.module_tree import module_tree
from minipeft.plots.networks import lora_convolution, one_door
from minipeft.plots.pictures import attention_on_pictures, class_attention, patches, pictures
from minipeft.plots.prompts import (
    nearest_tokens,
    nearest_words,
    prefix_map,
    prefixes,
    principal_plane,
    prompt_trajectory,
    similarity_maps,
)
from minipeft.plots.quantization import (
    accuracy_by_bits,
    block_error,
    places_in_cells,
    quantization_errors,
    quantization_levels,
    quantized_weights,
    rounded_changes,
)
from minipeft.plots.ranks import error_by_rank, rank_grid, rank_history, triplet_scores
from minipeft.plots.scenes import captioned, frontier, similarities, two_towers
from minipeft.plots.sharing import shared_and_private
from minipeft.plots.structure import STRUCTURES, doors, structure
from minipeft.plots.style import AMOUNT, FROZEN, HUES, INK, SIGNED, SPARE, bare, new, shades
from minipeft.plots.subspaces import subspace_similarity
from minipeft.plots.tables import accuracy_matrix, decision_tree, differences, mixed_batch, scorecard
from minipeft.plots.training import (
    accuracy_by_size,
    bars,
    curves,
    forgetting,
    interpolation,
    learned_and_forgotten,
    learning_rates,
    memory,
    pareto,
)
from minipeft.plots.weights import (
    bias_changes,
    low_rank,
    magnitude_direction,
    principal_singular_values,
    spectrum,
    vera_vectors,
    what_moved,
)

__all__ = [
    "AMOUNT", "FROZEN", "HUES", "INK", "SIGNED", "SPARE", "STRUCTURES", "accuracy_by_bits", "accuracy_by_place",
    "accuracy_by_size", "accuracy_matrix", "adapter_activations", "attention", "attention_maps",
    "attention_on_pictures", "attention_share", "bare", "bars", "bias_changes", "bits_stored", "block_error",
    "bottleneck", "captioned", "class_attention", "common_share", "curves", "decision_tree", "differences", "doors",
    "effects", "error_by_rank", "explained_variance", "fixed_and_tuned", "forgetting", "frontier", "fusion_weights",
    "heads", "interpolation", "learned_and_forgotten", "learning_rates", "lora_convolution", "low_rank",
    "magnitude_direction", "memory", "mixed_batch", "module_tree", "nearest_tokens", "nearest_words", "new",
    "one_door", "pareto", "patches", "pictures", "places_in_cells", "plt", "prefix_by_token", "prefix_map",
    "prefixes", "principal_plane", "principal_singular_values", "prompt_trajectory", "quantization_errors",
    "quantization_levels", "quantized_block", "quantized_weights", "rank_grid", "rank_history", "rotations",
    "rounded_changes", "scorecard", "shades", "shared_and_private", "shared_heads", "similarities", "similarity_maps",
    "spectrum", "structure", "subspace_similarity", "three_places", "token_changes", "triplet_scores", "two_towers",
    "vera_vectors", "virtual_share", "what_moved", "where_answers_read",
]  # fmt: skip
