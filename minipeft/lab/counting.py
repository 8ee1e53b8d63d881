"""Counting multiplications: one forward pass, measured, with what attention multiplies by itself."""

from torch.utils.flop_counter import FlopCounterMode

from minipeft.models.transformer import recording


def multiplications(model, *inputs):
    """How many multiplications a forward pass over these inputs takes in matrix products, attention's own included.

    Normalisation, nonlinearities and sums are not counted.
    """
    with FlopCounterMode(display=False) as counter, recording(model):  # `recording` writes attention out, to be counted
        model(*inputs)
    return counter.get_total_flops() // 2  # a multiplication and an addition are two operations
