"""What a model refuses to read, with errors that tell what to do. Checked before any work."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def check_rows(tokens, mask):
    """Raises ValueError unless tokens are integers (B, T) and mask is None or a tensor of the same shape."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        got = f"a tensor {tuple(tokens.shape)} of {tokens.dtype}" if isinstance(tokens, Tensor) else repr(tokens)
        single = "; a single row needs a batch dimension: tokens[None]" if getattr(tokens, "ndim", 0) == 1 else ""
        raise ValueError(f"tokens must be a tensor of integers (B, T), got {got}{single}")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != tokens.shape):
        got = tuple(mask.shape) if isinstance(mask, Tensor) else repr(mask)
        raise ValueError(f"mask must be booleans {tuple(tokens.shape)}, as the tokens, False at padding; got {got}")


def check_embedded(tokens, positions, vocab, context):
    """Raises ValueError if there are no tokens, one is not in the vocabulary, or a position lies beyond the context."""
    if not tokens.numel():
        raise ValueError(f"there are no tokens: the input has shape {tuple(tokens.shape)}")
    if (strange := tokens[(tokens < 0) | (tokens >= vocab)]).numel():
        raise ValueError(f"the vocabulary has the tokens 0 to {vocab - 1}, the input holds {int(strange[0])}")
    if (last := int(positions.max())) >= context:
        raise ValueError(
            f"the sequence needs {last + 1} positions but the context has {context}: {tokens.shape[1]} tokens and "
            f"what stands before them, read or learned; shorten the input or the prompt"
        )


def check_generation(model, tokens, new, mask, temperature):
    """Raises ValueError where `generate` could not come to its end."""
    check_rows(tokens, mask)
    if not model.config.causal:
        raise ValueError("a bidirectional model cannot generate: its tokens see the future; use a causal one")
    if isinstance(temperature, bool) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 (the likeliest token) or a number above, got {temperature!r}")
    if type(new) is not int or new < 1:
        raise ValueError(f"new must be a whole number of at least 1 token, got {new!r}")
    if mask is not None and not mask[:, -1].all():
        raise ValueError("a row ends in padding, so what follows it would be wrong: pad on the left to generate")
    room, cache = (0, new - 1), model.new_cache()
    cache.extend(F.pad(tokens, room), None if mask is None else F.pad(mask, room, value=True))
    model.embed(F.pad(tokens, room), cache)
