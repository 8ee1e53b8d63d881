"""Checks of the arguments of functions: what was wrong, what was expected, what to do. A learner's slips come first."""

import math
from numbers import Real
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor, nn

from minipeft.settings import WRONG, converted, described

ANY = (0, math.inf)  # limits of a number that may be 0


def checked(what, value, kind, limits=None):
    """The value as a number of this kind, int or float, as `settings` checks it. Raises ValueError for any other."""
    try:
        return converted(value, kind, limits)
    except WRONG:
        raise ValueError(f"{what} must be {described(kind, limits)}, got {got(value)}") from None


def a_model(function, value):
    """Raises TypeError if the first argument of this function is no model."""
    if isinstance(value, nn.Module):
        return
    name = value.__name__ if isinstance(value, type) else repr(value)
    if is_task(value):
        cure = f"the model comes first, then the task: {function}(model, task)"
    elif hasattr(value, "attach"):
        call = f"{name}()" if isinstance(value, type) else name
        cure = f"attach the method to a model, and hand on what that gives: adapted = {call}.attach(model)"
    elif isinstance(value, type | FunctionType):
        cure = f"call it first: {value.__name__}(...)"
    elif hasattr(value, "tensors"):
        cure = "a delta goes on a model first: load(delta, base())"
    else:
        cure = f"hand it a model, such as base(): {function}(model, ...)"
    raise TypeError(f"{function} takes a model, got {got(value)}: {cure}")


def a_task(function, value):
    """Raises TypeError if what this function should draw examples from is no task."""
    if is_task(value):
        return
    if isinstance(value, str):
        cure = f"write task({value!r})"
    elif isinstance(value, nn.Module):
        cure = f"the model comes first, then the task: {function}(model, task)"
    else:
        cure = "write task('reverse+blue'), or anything else that has batch(size, generator)"
    raise TypeError(f"{function} takes a task, got {got(value)}: {cure}")


def a_row_of_tokens(function, value, vocabulary):
    """The tokens (T,) as a list. Raises TypeError or ValueError if they are not one row of tokens of the vocabulary."""
    if isinstance(value, str):
        raise TypeError(f"{function} takes tokens, got {got(value)}: encode turns a text into tokens")
    try:
        row = torch.as_tensor(value if hasattr(value, "__array__") else list(value))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{function} takes tokens (T,), whole numbers, got {got(value)}") from None
    if row.ndim != 1:
        cure = f"{function}(made[0]), or [{function}(row) for row in made]" if row.ndim else f"{function}(token[None])"
        raise ValueError(f"{function} takes one row of tokens (T,), got {got(row)}: write {cure}")
    if len(row) and not whole_numbers(row):
        raise TypeError(f"{function} takes tokens, which are whole numbers, got {got(row)}: of logits take .argmax(-1)")
    for token in (tokens := row.tolist()):
        if not 0 <= token < vocabulary:
            cure = ": leave out what is not asked, row[row != IGNORE]" if token < 0 else ""
            raise ValueError(f"{function}: tokens are numbers from 0 to {vocabulary - 1}, got {token}{cure}")
    return tokens


def whole_numbers(tensor):
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def is_task(value):
    return callable(getattr(value, "batch", None)) and not isinstance(value, type | nn.Module)


def got(value):
    """What a value is, in a few words."""
    if isinstance(value, str):
        return f"the text {short(value)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, FunctionType | BuiltinFunctionType):
        return f"the function {value.__name__}"
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
    if value is None or isinstance(value, Real):
        return short(value)
    name, text = type(value).__name__, short(value)
    return text if text.startswith(name) else f"the {name} {text}"


def short(value):
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]} …"
