"""The parts of a real language model that lesson 1's Transformer does not have.

rotations(base)             how far RoPE turns the pairs of a head, position by position
shared_heads(9, 3)          which heads of queries share keys and values
quantized_block(block)      32 weights as a GGUF file stores them: codes, and the scales d and m
"""

import numpy as np

from minipeft.plots.boxes import arrow, box, say, sheet
from minipeft.plots.style import FROZEN, GREY, HUES, INK, bare, new


def rotations(base=10_000.0, size=64, pairs=(0, 4, 8, 16, 31), positions=(0, 1, 2, 3, 10, 100, 1000, 8000), ax=None):
    """A clock for each pair (a row) at each position (a column). Its hand shows where (1, 0) is turned to.

    base, size: θ of the angles, and the width c of a head.
    """
    top = 1.25 * len(pairs)
    ax = sheet(ax or new(8.6, 0.6 + 0.68 * len(pairs)), 6.2 + 1.25 * len(positions), top + 0.8)
    for column, position in enumerate(positions):
        say(ax, 6.5 + 1.25 * column, top + 0.4, f"{position:,}")
    say(ax, 4.9, top + 0.4, "position", align="right")
    for row, pair in enumerate(pairs):
        y, angle = top - 1.25 * row - 0.65, base ** (-2 * pair / size)
        say(ax, 4.9, y, f"pair {pair}: {np.degrees(angle):.2g}° a position", align="right")
        for column, position in enumerate(positions):
            clock(ax, 6.5 + 1.25 * column, y, position * angle)
    return ax


def clock(ax, x, y, angle, radius=0.5):
    """A circle with a hand, turned by the angle from three o'clock against the clock."""
    turn = np.linspace(0, 2 * np.pi, 60)
    ax.plot(x + radius * np.cos(turn), y + radius * np.sin(turn), color=FROZEN, lw=1)
    tip = x + radius * np.cos(angle), y + radius * np.sin(angle)
    ax.plot((x, tip[0]), (y, tip[1]), color=HUES["LoRA"], lw=2.2, solid_capstyle="round")


def shared_heads(heads=9, kv_heads=3, ax=None):
    """Heads of queries above, the heads of keys and values that they share below."""
    share, ax = heads // kv_heads, sheet(ax or new(8.2, 2.1), 12 * heads + 14, 30)
    say(ax, 12, 23.5, "queries", align="right")
    say(ax, 12, 5.5, "keys, values", align="right")
    for i in range(heads):
        x = 14 + 12 * i
        box(ax, x, 20, 10, 7, f"q{i}")
        middle = 14 + 12 * share * (i // share) + (12 * share - 2) / 2
        arrow(ax, (middle, 9.5), (x + 5, 19.5))
    for g in range(kv_heads):
        box(ax, 14 + 12 * share * g, 2, 12 * share - 2, 7, f"k{g}, v{g}", face=HUES["LoRA"])
    return ax


def quantized_block(block, ax=None):
    """The 32 weights of a Q4_1 block, which lie on 16 levels.

    block: a row of `GGUF.stored`, with the fields d, m and codes.
    """
    d, m = float(block["d"]), float(block["m"])
    codes = np.concatenate([block["codes"] & 15, block["codes"] >> 4])
    ax = bare(ax or new(8.0, 3.2))
    for code in range(16):
        ax.axhline(m + d * code, color=FROZEN, lw=0.7, zorder=0)
    ax.vlines(np.arange(32), 0, m + d * codes, color=GREY, lw=1)
    ax.axhline(0, color=INK, lw=1)
    ax.plot(np.arange(32), m + d * codes, "o", ms=6, color=HUES["LoRA"])
    ax.set(xlabel="weight of the block", ylabel="value", xlim=(-1, 32))
    levels = ax.twinx()
    levels.spines[["top", "left"]].set_visible(False)
    levels.set(ylim=np.subtract(ax.get_ylim(), m) / d, ylabel="code")
    levels.set_yticks(range(0, 16, 3))
    return ax
