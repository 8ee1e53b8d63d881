"""Tasks that share an update, drawn: one frozen weight and one shared update for all rows, a private part for each."""

from minipeft.plots.boxes import arrow, box, say, sheet, sign
from minipeft.plots.style import HUES, SPARE, new

ROW, COMMON, OWN = 4.0, 9.5, 9.5  # the height of a row; the width of what all rows use, and of a private part


def shared_and_private(names=("blue", "red", "mirror"), private="LoRA", ax=None):
    """What a row of each task meets at a weight: grey is frozen, LoRA's colour is shared, the others are private.

    names: of the tasks, six at most. private: "LoRA", one more update of the weight, or "prompt", vectors in front.
    Raises ValueError for anything else.
    """
    if private not in ("LoRA", "prompt"):
        raise ValueError(f"a private part is drawn as LoRA or prompt, got {private!r}")
    if not 1 <= len(names) <= len(SPARE):
        raise ValueError(f"from 1 to {len(SPARE)} tasks can be drawn, got {len(names)}")
    high, in_front = ROW * len(names), private == "prompt"
    ax = sheet(ax or new(7.6, 0.5 + 0.55 * len(names)), 56, high + 0.3, -4.2)
    weight, shared, own = (23, 36, 2) if in_front else (11, 25, 39)
    for i, name in enumerate(names):
        y = high - ROW * (i + 0.5)
        x = own + OWN + 4.5 if in_front else 3
        say(ax, x, y, f"x of\n{name}")
        box(ax, own, y - 1.5, OWN, 3, f"P of {name}" if in_front else f"B, A of {name}", SPARE[i])
        if in_front:
            say(ax, own + OWN + 1, y, ";", size=12)
        arrow(ax, (x + 2.8, y), (weight, y))
        last = shared + COMMON if in_front else own + OWN
        for left, right in ((weight + COMMON, shared), (shared + COMMON, own)):
            if left < right:
                sign(ax, (left + right) / 2, y)
        arrow(ax, (last, y), (53, y))
        say(ax, 54.5, y, "y")
    box(ax, weight, 0, COMMON, high, "W, b")
    box(ax, shared, 0, COMMON, high, "B, A\nshared", HUES["LoRA"])
    told = {weight: "frozen,\nused once", shared: "trained by\nall rows", own: "trained by\nits own rows"}
    for left, text in told.items():
        say(ax, left + COMMON / 2, -2.2, text)
    return ax
