"""Learning rates: what Adam's first step makes of one, and which is best, read between those that were tried."""

import numpy as np
import torch


def first_step(A, h, g, s, lr):
    """ΔW = sBA, (out, in), after Adam has made one step on B, which starts at zero.

    A: (r, in); h = Ax: (r,); g: (out,), the gradient of the loss by the layer's output; s: the scale; lr: the learning
    rate. Kingma and Ba 2015, Adam, arXiv:1412.6980, algorithm 1.
    """
    B = torch.zeros(len(g), len(h), requires_grad=True)
    B.grad = s * torch.outer(g, h)
    torch.optim.Adam([B], lr=lr).step()
    return s * B.detach() @ A


def best_learning_rate(losses):
    """Where a parabola through the lowest of {learning rate: loss} and its two neighbours is lowest, all as logarithms.

    If the lowest loss is at the lowest or the highest learning rate, that one is returned: then try one beyond it.
    """
    tried = sorted(losses)
    least = tried.index(min(tried, key=losses.get))
    if not 0 < least < len(tried) - 1:
        return tried[least]
    near = tried[least - 1 : least + 2]
    square, slope, _ = np.polyfit(np.log(near), np.log([losses[lr] for lr in near]), 2)
    return float(np.exp(-slope / (2 * square)))
