"""What a method does at one of the places of an encoder-decoder: to where an answer reads, and to the work it takes."""

import torch

import minipeft.lab.counting as counting
from minipeft.tasks import encode
from minipeft.worlds.pairs import reading


def moved_attention(view, base, text):
    """How far cross-attention to the words of a source has moved from the base's, a share for each block.

    What the first token of the answer gives to a prefix is left out and the rest scaled to 1; 0 is unmoved, and 1 says
    that all attention goes to words which had none. It is a mean over heads.
    """
    found = []
    for after, before in zip(reading(view, text).cross, reading(base, text).cross, strict=True):
        words = before.shape[-1]
        a, b = [x / x.sum(-1, keepdim=True) for x in (after[:, 0, -words:], before[:, 0])]  # (H, words)
        found.append(float((a - b).abs().sum(-1).mean() / 2))
    return found


def multiplications(model, text, start):
    """What a pass of a source takes, with an answer of as many tokens that begins with `start`; counted, not timed."""
    source = encode(text)[None]
    answer = torch.cat([source.new_full((1, 1), start), source[:, 1:]], dim=1)
    return counting.multiplications(model, source, answer)
