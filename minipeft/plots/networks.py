"""Drawings of the networks that are no Transformers: where a method can step in, and LoRA beside a convolution."""

from minipeft.plots.boxes import arrow, box, disc, say, sheet, sign
from minipeft.plots.style import HUES, SPARE, new


def weight(ax, x, y, text):
    """A weight with a door: a method can change it."""
    box(ax, x, y, 10, 6, text, edge=SPARE[0])
    disc(ax, x, y + 6, 1, SPARE[0])


def one_door(axes=None):
    """A convolutional and a recurrent network as maps. 1 marks the door that is used, a weight."""
    above, below = new(8.6, 4.6, rows=2, height_ratios=[13, 21]) if axes is None else axes
    sheet(above, 86, 13)
    say(above, 0.5, 12, "a convolutional network", align="left", weight="bold")
    say(above, 4.5, 4, "picture\n(B, 28, 28)")
    for x, name in ((13, "conv1"), (30, "conv2"), (47, "conv3"), (64, "head")):
        arrow(above, (x - (3 if x == 13 else 7), 4), (x, 4))
        weight(above, x, 1, name)
    arrow(above, (74, 4), (77, 4))
    say(above, 77.5, 4, "(B, classes)", align="left")
    sheet(below, 86, 21)
    say(below, 0.5, 20, "a recurrent network (LSTM)", align="left", weight="bold")
    say(below, 4.5, 4, "tokens\n(B, T)")
    for x, name in ((13, "embed"), (30, "W_ih"), (64, "head")):
        arrow(below, ({13: 10, 30: 23, 64: 58}[x], 4), (x, 4))
        weight(below, x, 1, name)
    arrow(below, (40, 4), (42.6, 4))
    sign(below, 44, 4)
    arrow(below, (45.4, 4), (48, 4))
    box(below, 48, 1, 10, 6, "gates")
    weight(below, 46, 12, "W_hh")
    arrow(below, (60.5, 4), (60.5, 15), (56, 15))
    say(below, 61.2, 10, "h, into the\nnext step", align="left")
    arrow(below, (46, 15), (44, 15), (44, 5.6))
    arrow(below, (74, 4), (77, 4))
    say(below, 77.5, 4, "(B, T, V)", align="left")
    return above, below


def lora_convolution(ax=None):
    """LoRA beside a convolution: A is a convolution with r channels, B mixes them at each pixel."""
    ax = sheet(ax or new(7.6, 2.6), 76, 24)
    hue = HUES["LoRA"]
    say(ax, 5, 17, "x\n(B, in, Y, X)")
    arrow(ax, (10.5, 17), (27, 17))
    box(ax, 27, 13.5, 20, 7, "W, b: frozen\n(out, in, k, k)")
    arrow(ax, (47, 17), (61.6, 17))
    sign(ax, 63, 17)
    arrow(ax, (64.4, 17), (67, 17))
    say(ax, 67.5, 17, "y\n(B, out, Y, X)", align="left")
    arrow(ax, (13, 17), (13, 5), (17, 5))
    box(ax, 17, 1.5, 15, 7, "A\n(r, in, k, k)", hue)
    arrow(ax, (32, 5), (43, 5))
    say(ax, 37.5, 7.2, "(B, r, Y, X)")
    box(ax, 43, 1.5, 15, 7, "B = 0\n(out, r, 1, 1)", hue)
    arrow(ax, (58, 5), (63, 5), (63, 15.4))
    say(ax, 64, 10, "· α/r", align="left")
    return ax
