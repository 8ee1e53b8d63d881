"""What a model refuses to read, with errors that tell what to do. Checked before any work."""

import functools
import math
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor


def check_rows(tokens, mask, cache=None):
    """Raises ValueError unless tokens are integers (B, T), mask says which are real, and cache is of the same rows."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"tokens must be a tensor of integers (B, T), got {got(tokens)}{cure(tokens)}")
    if not tokens.numel():
        raise ValueError(f"there are no tokens: the input has shape {tuple(tokens.shape)}; give at least one")
    if mask is not None and not (isinstance(mask, Tensor) and mask.shape == tokens.shape and zeros_and_ones(mask)):
        wanted = f"have the tokens' shape {tuple(tokens.shape)} and hold True and False, or 1 and 0, False at padding"
        raise ValueError(f"mask must {wanted}; got {got(mask)}")
    if cache is not None and not hasattr(cache, "layers"):
        raise ValueError(f"cache must be what model.new_cache() gave, or None; got {got(cache)}")
    k = None if cache is None else cache.layers[0].k
    if k is not None and k.ndim == 4 and len(k) not in (1, len(tokens)):
        raise ValueError(
            f"the cache holds {len(k)} rows, but there are {len(tokens)} rows of tokens: continue the rows that it has "
            f"read, or begin with model.new_cache()"
        )


def keeping_the_cache(forward):
    """The forward pass of a model; when it refuses its input, the user's cache is as it was."""

    @functools.wraps(forward)
    def run(self, tokens, mask=None, cache=None):
        check_pooled(self.head, mask)
        before = dict(getattr(cache, "__dict__", {}))
        try:
            return forward(self, tokens, mask, cache)
        except ValueError:
            for name, value in before.items():
                setattr(cache, name, value)
            raise

    return run


def check_pooled(head, mask):
    """Raises ValueError if a row has padding where a head that reads one token reads it."""
    place = getattr(head, "place", None)
    if place is not None and isinstance(mask, Tensor) and mask.ndim == 2 and not mask[:, place].all():
        name, side = ("last", "left") if place else ("first", "right")
        raise ValueError(f"the head reads the {name} token, but a row has padding there: pad on the {side}")


def zeros_and_ones(mask):
    return mask.dtype == torch.bool or (not mask.is_floating_point() and bool(((mask == 0) | (mask == 1)).all()))


def got(value):
    return f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"{value!r:.80}"


def cure(tokens):
    """What to do about tokens that are not integers (B, T)."""
    if isinstance(tokens, str):
        return "; turn the text into tokens first"
    if not isinstance(tokens, Tensor):
        return "; make it one: torch.as_tensor(tokens)"
    if tokens.dtype == torch.bool:
        return "; the mask is the second argument"
    if tokens.dtype not in (torch.int64, torch.int32):
        return "; if these are numbers of tokens: tokens.long()"
    return "; a single row needs a batch dimension: tokens[None]" if tokens.ndim == 1 else "; B rows of T tokens each"


def check_embedded(tokens, positions, vocab, context):
    """Raises ValueError if a token is not in the vocabulary, or a position lies beyond the context."""
    if strange := [token for token in map(int, tokens.aminmax()) if not 0 <= token < vocab]:
        raise ValueError(f"the vocabulary has the tokens 0 to {vocab - 1}, the input holds {strange[0]}")
    if (last := int(positions.max())) >= context:
        raise ValueError(
            f"the sequence needs {last + 1} positions but the context has {context}: {tokens.shape[1]} tokens and "
            f"what stands before them, read or learned; shorten the input or the prompt"
        )


def check_generation(model, tokens, new, mask, temperature, stop, cache):
    """Raises ValueError where `generate` could not come to its end."""
    check_rows(tokens, mask)
    if not model.config.causal:
        raise ValueError("a bidirectional model cannot generate: its tokens see the future; use a causal one")
    check_steps(model, new, temperature, stop, cache)
    if mask is not None and not mask[:, -1].all():
        raise ValueError("a row ends in padding, so what follows it would be wrong: pad on the left to generate")
    room, memory = (0, new - 1), model.new_cache()
    memory.extend(F.pad(tokens, room), None if mask is None else F.pad(mask, room, value=True))
    model.embed(F.pad(tokens, room), memory)


def check_steps(model, new, temperature, stop, cache):
    """Raises ValueError where it cannot be told how to choose the next tokens, or when to end."""
    if hasattr(model.head, "classify"):
        raise ValueError("a model that classifies cannot generate: it has one answer for a row; call model(tokens)")
    if not number(temperature, Real) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 (the likeliest token) or a number above, got {temperature!r}")
    if not number(new, Integral) or new < 1:
        raise ValueError(f"new must be a whole number of at least 1 token, got {new!r}")
    if stop is not None:
        check_token("stop", stop, model.config.vocab)
    if not isinstance(cache, bool):
        raise ValueError(f"cache must be True or False, as generate makes its own; got {got(cache)}")


def check_token(name, token, vocab):
    if not (number(token, Integral) and 0 <= token < vocab):
        raise ValueError(f"{name} must be a token, 0 to {vocab - 1}, or None; got {token!r}")


def check_source(tokens, mask):
    """Raises ValueError unless tokens and mask are rows to attend to: each has a real token."""
    check_rows(tokens, mask)
    if mask is not None and (empty := (mask == 0).all(1)).any():
        row = int(empty.nonzero()[0])
        raise ValueError(f"row {row} of the source is padding alone, so there is nothing to attend to: leave it out")


def check_pairs(tokens, answers, mask):
    """Raises ValueError unless these are rows of a source and, for each, a row of its answer."""
    check_source(tokens, mask)
    if not isinstance(answers, Tensor) or answers.ndim != 2 or answers.dtype not in (torch.int64, torch.int32):
        cures = "; the mask is the third argument" if getattr(answers, "dtype", None) == torch.bool else cure(answers)
        raise ValueError(f"answers must be a tensor of integers (B, U), got {got(answers)}{cures}")
    if len(answers) != len(tokens) or not answers.numel():
        given = f"tokens are {got(tokens)}, answers {got(answers)}"
        raise ValueError(f"each row of tokens needs an answer, at least the token that it begins with; {given}")


def check_writing(model, tokens, new, mask, temperature, stop, cache, start):
    """Raises ValueError where `generate` of an encoder-decoder could not come to its end."""
    check_source(tokens, mask)
    check_steps(model, new, temperature, stop, cache)
    check_token("start", start, model.config.vocab)
    decoder = model.decoder
    decoder.embed(tokens.new_full((1, new), start), decoder.begin(decoder.blocks))


def number(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)
