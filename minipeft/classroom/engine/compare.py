"""Comparing what was observed with what was expected: is it the same, and if not, what is different, in words."""

import math

import numpy as np

TOLERANCE = 1e-6
ROUNDED = 1e-9, 1e-6  # numbers are of the size of 1, in float64: between these, a difference is float32's rounding


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(a, b):
    """Equal up to rounding: within a millionth of the largest number."""
    if is_number(a) and is_number(b):
        return close([a], [b])
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        if "error" in a or "error" in b:
            return a.get("error") == b.get("error")
        if "data" in a and "data" in b:
            return a["shape"] == b["shape"] and close(a["data"], b["data"])
        return list(sorted(a)) == list(sorted(b)) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def close(a, b):
    if isinstance(a, list) and a == b:
        return True
    try:
        a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    except (TypeError, ValueError, OverflowError):  # what a child sent may be anything
        return False
    if a.shape != b.shape:
        return False
    both = np.concatenate([a.ravel(), b.ravel()])
    size = float(np.abs(both[np.isfinite(both)]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= TOLERANCE * size + 1e-12
    return bool((near | (a == b) | (np.isnan(a) & np.isnan(b))).all())


def differing(expected, got):
    return [name for name in expected if not same(expected[name], got.get(name))]


def difference(expected, got):
    """In words, what is different between two plain values."""
    if isinstance(got, dict) and "error" in got:
        where = f" in line {got['line']}: `{got['code']}`" if got.get("line") else ""
        return f"It stops with {got['error']}{where}."
    if isinstance(expected, dict) and "error" in expected:
        return f"Expected {expected['error'].partition(':')[0]}, yours goes on without one."
    if is_number(expected) and is_number(got):
        if expected and got:
            return f"Yours is {times(expected, got)}."
        return f"It should be 0, yours is {short(got)}." if got else "Yours is 0."
    if isinstance(expected, dict) and isinstance(got, dict):
        if "data" in expected and "data" in got:
            return of_tensors(expected, got)
        if "items" in expected and "items" in got:
            return of_items(expected["items"], got["items"])
    if isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            return f"Expected {len(expected)} of them, got {len(got)}."
        first = next(i for i, pair in enumerate(zip(expected, got, strict=True)) if not same(*pair))
        inner = difference(expected[first], got[first])
        if len(expected) == 1:
            return inner
        deeper = inner.startswith("Number ")  # number 2 of number 1 is number 1.2
        return f"Number {first + 1}" + (f".{inner.removeprefix('Number ')}" if deeper else f": {inner}")
    return f"Expected {short(expected)}, got {short(got)}."


def of_tensors(expected, got):
    if expected["shape"] != got["shape"]:
        return f"Expected the shape {tuple(expected['shape'])}, got {tuple(got['shape'])}."
    e, g = np.asarray(expected["data"], dtype=float), np.asarray(got["data"], dtype=float)
    if np.isnan(g).any() and not np.isnan(e).any():
        return "Yours holds NaN."
    if not g.any():
        return "Yours is zero everywhere."
    if not e.any():
        reaches = float(np.abs(g).max())
        says = f"It should be zero everywhere, yours reaches {short(reaches)}."
        if ROUNDED[0] < reaches < ROUNDED[1]:
            says += " That is the rounding of float32: does yours keep the type of its input?"
        return says
    ratio = float(e @ g / (e @ e)) if np.isfinite(e).all() and np.isfinite(g).all() else math.nan
    if np.isfinite(ratio) and close(ratio * e, g):
        return f"Yours is {times(1, ratio)}."
    wrong = int((~np.isclose(e, g, rtol=0, atol=TOLERANCE * float(np.abs(e).max()), equal_nan=True)).sum())
    return f"{wrong} of {len(e)} numbers differ, by up to {short(float(np.nanmax(np.abs(e - g))))}."


def of_items(expected, got):
    missing, extra = [k for k in expected if k not in got], [k for k in got if k not in expected]
    if missing or extra:
        return " ".join(f"{w}: {', '.join(k)}." for w, k in (("Missing", missing), ("Too many", extra)) if k)
    name = next(k for k in expected if not same(expected[k], got[k]))
    return f"{name}: {difference(expected[name], got[name])}"


def times(expected, got):
    ratio = got / expected
    text = f"{ratio:.2f}" if 0.1 <= abs(ratio) < 1000 else f"{ratio:.3g}"
    text = f"{ratio:.7g}" if text == "1.00" else text
    return "the expected one with the sign turned" if close([ratio], [-1]) else f"{text} times the expected one"


def short(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and "data" in value:
        return f"numbers of shape {tuple(value['shape'])}"
    text = str([*value["items"]] if isinstance(value, dict) and "items" in value else value)
    return text if len(text) < 80 else text[:77] + "..."


def drawable(expected, got):
    """Two tensors of one shape that can be shown as pictures, also inside equal structures; or None."""
    if isinstance(expected, dict) and isinstance(got, dict):
        if "data" in expected and "data" in got and expected["shape"] == got["shape"] and len(expected["data"]) > 2:
            return expected, got
        if "items" in expected and "items" in got:
            expected, got = expected["items"], got["items"]
            pairs = [(expected[k], got[k]) for k in expected if k in got]
        else:
            return None
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = list(zip(expected, got, strict=True))
    else:
        return None
    return next((found for e, g in pairs if not same(e, g) and (found := drawable(e, g))), None)
