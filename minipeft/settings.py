"""A method's settings, checked once for all methods: by the type of each field, and by the method's `LIMITS`.

    rank: int                              a whole number of at least 1
    alpha: float                           a number above 0
    dropout: float                         with LIMITS = {"dropout": (0, 1)}: a number of at least 0 and below 1
    rslora: bool                           True or False, and nothing that merely counts as such
    targets: tuple[str, ...]               any collection of names; it becomes a tuple
    form: Literal["hidden", "key/value"]   one of these

What passes can be stored as JSON and comes back equal. NumPy's numbers, and tensors of one number, become Python's.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

UNIONS = (Union, UnionType)
WRONG = (ValueError, TypeError, RuntimeError)  # the last is what torch says of a tensor of several numbers


@dataclass(frozen=True)
class Settings:
    """A dataclass that checks its fields when it is made.

    LIMITS: {name: (least, below)} of settings that have not the usual limits.
    SIZES: names of the settings that are the length of a stored tensor.
    """

    LIMITS, SIZES = {}, ()

    def __post_init__(self):
        for name, value in checked(self).items():
            object.__setattr__(self, name, value)

    def __init_subclass__(cls):
        cls.__repr__ = Settings.__repr__  # a dataclass leaves a `__repr__` that is there

    def __repr__(self):
        """As Python writes it: all settings, but of those given by name only, which many share, what is not usual."""
        plain, named = ([f for f in fields(self) if f.kw_only is kind] for kind in (False, True))
        shown = plain + [f for f in named if getattr(self, f.name) != default(f)]
        return f"{type(self).__qualname__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    def __str__(self):
        """The label in figures and tables: the first setting and those that differ from the default."""
        ordered = sorted(fields(self), key=lambda f: f.kw_only)
        shown = [f for f in ordered if (f is ordered[0] and not f.kw_only) or getattr(self, f.name) != default(f)]
        inside = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in shown if getattr(self, f.name) is not None)
        return f"{type(self).__name__}({inside})" if inside else type(self).__name__


@dataclass(frozen=True)
class MethodSettings(Settings):
    """What every method can be told, by name.

    places: parts of the model, outside of which nothing is put: ("encoder", "decoder.blocks.0"); () for all of it.
    classes: a fresh head for so many classes takes the place of the model's and is trained with the method; "own": a
        copy of the model's own head is.
    head_lr: the learning rate of that head; None for that of the method.
    """

    places: tuple[str, ...] = field(default=(), kw_only=True)
    classes: int | Literal["own"] | None = field(default=None, kw_only=True)
    head_lr: float | None = field(default=None, kw_only=True)


def default(setting):
    return setting.default if setting.default is not MISSING else setting.default_factory()


def checked(settings):
    """{name: value} of all settings, in the types of their fields.

    Raises ValueError for the first setting that is of another type or outside its limits.
    """
    kinds, found = get_type_hints(type(settings)), {}
    for name in settings.__dataclass_fields__:
        value, limits = getattr(settings, name), ({"classes": (2, math.inf)} | settings.LIMITS).get(name)
        try:
            found[name] = converted(value, kinds[name], limits)
        except WRONG:
            wanted = described(kinds[name], limits)
            raise ValueError(f"{type(settings).__name__}: {name} must be {wanted}, got {value!r}") from None
    return found


def converted(value, kind, limits=None):
    """The value as a setting of this kind holds it. Raises one of WRONG if it is none."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in UNIONS:
        for part in parts:
            try:
                return converted(value, part, limits)
            except WRONG:
                continue
        raise ValueError
    if origin is tuple:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise TypeError
        inside = limits or (0, math.inf)
        return tuple(converted(v, parts[0], inside) for v in (sorted(value) if isinstance(value, set) else value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise TypeError
        return {converted(k, parts[0]): converted(v, parts[1]) for k, v in value.items()}
    if hasattr(value, "item"):
        value = value.item()
    if origin is Literal:
        right = isinstance(value, str) and value in parts
    elif kind in (int, float):
        right = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        right = right and inside_limits(value, kind, limits)
    elif kind is Callable:
        right = callable(value) and not isinstance(value, type)
    else:
        right = type(value) is kind
    if not right:
        raise ValueError
    return value


def inside_limits(value, kind, limits):
    """limits: the least value and the one that it must stay below; None: at least 1 (whole) or above 0."""
    if limits is None:
        return value >= 1 if kind is int else 0 < value < math.inf
    return limits[0] <= value < limits[1]


def described(kind, limits=None):
    """The kind in words: "a whole number of at least 1 or None"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in UNIONS:
        return " or ".join(described(part, limits) for part in parts)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        return 'a tuple of names like ("q", "v")' if parts[0] is str else "a tuple of whole numbers like (2, 5)"
    if origin is dict:
        return 'a dictionary of names and whole numbers of at least 1 like {"v": 8}'
    if kind in (int, float):
        least, below = limits or (1, math.inf)
        start = "a whole number" if kind is int else "a number"
        first = "above 0" if kind is float and limits is None else f"of at least {least}"
        return f"{start} {first}" + (f" and below {below}" if below < math.inf else "")
    return {bool: "True or False", str: "a text", NoneType: "None", Callable: "a function"}[kind]
