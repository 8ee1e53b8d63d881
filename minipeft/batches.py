"""What goes through a model at once: the batches of a task, and the parts of one that is too large.

With a large vocabulary the logits are by far the largest tensor of a pass: of 50 rows of 30 tokens and SmolLM2's 49,152
words they take 295 MB, and the loss and its gradient as much again. So a pass has at most LOGITS of them, if a single
row has no more.
"""

import torch

from minipeft.arguments import got
from minipeft.tasks import IGNORE, Batch, rows_of

LOGITS = 2**25  # numbers, 134 MB; the toy world's batches have 50 thousand


def draw(task, size, generator, device):
    """A batch of the task on the device. Raises TypeError or ValueError if the task gives something else."""
    return sound(task, task.batch(size, generator)).to(device)


def sound(task, batch):
    """The batch. Raises TypeError or ValueError if it is none, or asks nothing."""
    if not isinstance(batch, Batch):
        raise TypeError(f"the task {task} gave {got(batch)}: its batch(size, generator) must return a Batch")
    if (batch.targets == IGNORE).all():
        raise ValueError(f"the task {task} asks nothing: every target is IGNORE")
    return batch


def batches(task, size, seed, device, rows=50):
    """`size` examples of the task, drawn with the seed, or all of a finite one, in batches of at most `rows`."""
    if hasattr(task, "every"):
        batch = sound(task, task.every()).to(device)
        yield from (rows_of(batch, slice(start, start + rows)) for start in range(0, len(batch.tokens), rows))
        return
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, size, rows):
        yield draw(task, min(rows, size - start), generator, device)


def vocabulary(model):
    """How many logits the model gives for a target: what a `config` in it calls `vocab`; 0 if there is none."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((config.vocab for config in configs if hasattr(config, "vocab")), 0)


def parts(batch, vocab):
    """The batch in parts of whole rows, each with at most LOGITS logits if a row has no more; vocab: as told above.

    A batch within that bound is its only part, and so is one whose rows are asked about each other.
    """
    rows = len(batch.tokens)
    most = max(1, LOGITS // max(1, vocab * batch.targets[:1].numel()))
    if batch.whole or 0 < rows <= most:
        yield batch
    else:
        yield from (rows_of(batch, slice(start, start + most)) for start in range(0, rows, most))


def asked(batch):
    """How many targets count."""
    return int((batch.targets != IGNORE).sum())
