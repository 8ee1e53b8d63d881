"""What the lessons on pictures measure of a model that was adapted: products of a training step, ink where it looks."""

from torch.utils.flop_counter import FlopCounterMode

from minipeft.training import loss_of


def step_multiplications(view, batch):
    """How many multiplications a training step takes in matrix products, forward and backward; the optimiser's do not
    count, nor does what is no matrix product."""
    with FlopCounterMode(display=False) as counter:
        loss_of(batch.logits(view), batch.targets).backward()
    view.zero_grad()
    return counter.get_total_flops() // 2  # a multiplication and an addition are two operations


def ink_seen(weights, pictures):
    """The ink where a model looks, divided by the ink of a patch on average: 1 if it looks everywhere alike.

    weights: (B, rows, columns), how attention is spread over the patches, as `plots.class_attention` gives it; a first
        dimension of 1 is one map for all. pictures: (B, side, side), bright where there is ink.
    """
    rows, columns = weights.shape[1:]
    ink = pictures.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).mean((2, 4))  # (B, rows, columns)
    return ((weights * ink).sum((1, 2)) / ink.mean((1, 2))).mean().item()
