"""Tasks that share an update, drawn: one frozen weight and one shared update for all rows, a private part for each."""

from minipeft.plots.boxes import arrow, box, say, sheet, sign
from minipeft.plots.style import HUES, INK, PALE, SPARE, new

ROW, LANE = 6.0, 2.0  # the height of a row, and of its two lines above and below its middle
COMMON, OWN = 9.5, 9.5  # the width of what all rows use, and of a private part


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
    ax = sheet(ax or new(7.6, 0.6 + 0.136 * high), 56, high + 0.5, -3.8)
    weight, shared, own = (24, 36.5, 2) if in_front else (9, 21.5, 34)
    what = "P" if in_front else "B, A"
    parts = (weight, shared) if in_front else (weight, shared, own)
    for left, face in ((weight, PALE), (shared, HUES["LoRA"])):
        box(ax, left + COMMON - 2.5, ROW / 2, 1.5, high - ROW, face=face)  # the boxes of all rows are one
    for i, name in enumerate(names):
        y = high - ROW * (i + 0.5)
        above, below = y + LANE, y - LANE  # one line brings x to all parts, another adds up what they give
        x = own + OWN + 4.5 if in_front else 3
        say(ax, x, above, f"x of\n{name}")
        box(ax, weight, y - 1.1, COMMON, 2.2, "W, b")
        box(ax, shared, y - 1.1, COMMON, 2.2, "shared B, A", HUES["LoRA"])
        low = (above if in_front else y) - 1.1
        box(ax, own, low, OWN, 2.2, f"{what} of {name}", SPARE[i])
        if in_front:
            say(ax, own + OWN + 1, above, ";", size=12)
        ax.plot((x + 2.8, parts[-1] + COMMON / 2), (above, above), color=INK, lw=1, zorder=3)
        for left in parts:
            arrow(ax, (left + COMMON / 2, above), (left + COMMON / 2, y + 1.1))
            ax.plot(2 * [left + COMMON / 2], (y - 1.1, below), color=INK, lw=1, zorder=3)
        ax.plot((weight + COMMON / 2, 50), (below, below), color=INK, lw=1, zorder=3)
        arrow(ax, (50, below), (53, below))
        sign(ax, 50, below)
        say(ax, 54.5, below, "y")
    told = {weight: "frozen,\nused once", shared: "trained by\nall rows", own: "trained by\nits own rows"}
    for left, text in told.items():
        say(ax, left + COMMON / 2, -2, text)
    return ax
