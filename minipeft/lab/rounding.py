"""What rounding to NF4 leaves of a change of weights: how large it is in steps, which codes change, what arrives of it.

The levels are those of `methods.qlora`, in blocks of 64 whose absmax stays in full precision.
"""

import torch

from minipeft.methods.qlora import decode, encode, levels_of

BLOCK = 64


def in_steps(coarse, change):
    """|ΔW| of each weight in steps, (n,), for Ŵ and ΔW of equal shape, n numbers.

    A step is the width of the cell that Ŵ lies in: from the middle between its level and the one below to the middle
    between it and the one above, times absmax. An outermost level has one neighbour; there it is the distance to it.
    """
    levels = levels_of("nf4")
    gaps = levels.diff()
    widths = torch.cat([gaps[:1], (gaps[1:] + gaps[:-1]) / 2, gaps[-1:]])
    codes, absmax = encode(coarse, levels, BLOCK)
    return change.abs().flatten() / decode(codes, absmax, widths, BLOCK)[: change.numel()]


def after_rounding(W, change):
    """Two numbers for W and ΔW of equal shape: the share of codes that ΔW changes, and the share of ΔW that arrives.

    Both W and W + ΔW are rounded. If the rounded values differ by D, the share that arrives is ⟨D, ΔW⟩ / ‖ΔW‖².
    """
    levels, n = levels_of("nf4"), change.numel()
    before, after = encode(W, levels, BLOCK), encode(W + change, levels, BLOCK)
    moved = (decode(*after, levels, BLOCK) - decode(*before, levels, BLOCK))[:n]
    codes_that_change = (before[0] != after[0])[:n].float().mean()
    return codes_that_change.item(), (moved @ change.flatten() / change.square().sum()).item()
