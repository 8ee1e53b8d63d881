"""Whatever is tried with a model, afterwards it is as it was."""

import contextlib
import random

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def unchanged(model, others=()):
    """Afterwards weights, buffers, gradients, modes and random numbers are as they were.

    others: parameters that the optimizer may change. A frozen weight that nothing can change is not copied.
    """
    parameters = {id(p): p for p in [*model.parameters(), *others]}.values()
    changing = {id(p) for p in [*others, *writing(model).values()]}
    moving = [p for p in parameters if p.requires_grad or id(p) in changing]
    numbers, gradients = [(p, p.detach().clone()) for p in moving], [(p, p.grad) for p in parameters]
    buffers = [(m, dict(m._buffers), {n: b.detach().clone() for n, b in m._buffers.items() if b is not None})
               for m in model.modules()]  # fmt: skip
    modes = [(module, module.training) for module in model.modules()]
    dice, numpy_dice = random.getstate(), np.random.get_state()  # noqa: NPY002
    for p in parameters:
        p.grad = None
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(dice)
        np.random.set_state(numpy_dice)  # noqa: NPY002
        with torch.no_grad():
            for p, before in numbers:
                p.copy_(before)
            for module, there, before in buffers:
                module._buffers.clear()
                module._buffers.update(there)
                for name in [n for n, b in before.items() if not torch.equal(b, there[n])]:
                    there[name].copy_(before[name])
        for p, gradient in gradients:
            p.grad = gradient
        for module, training in modes:
            module.training = training


def writing(model):
    """{dotted name: weight} of the modules that write their own weight while they compute: embeddings with max_norm."""
    modules = {name: m for name, m in model.named_modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    return {f"{name}.weight".lstrip("."): m.weight for name, m in modules.items() if m.max_norm is not None}
