"""Sheets: the exercises that are no method's own file, and what their answers are measured with.

lora_gradients       the backward pass of LoRA by hand
predict_parameters   how many numbers a method trains
predict_memory       how many bytes that takes
find_the_mistake     broken layers, each with statements to choose from
write_a_test         a test that tells a right LoRA layer from a wrong one
"""

import contextlib
from functools import cache

import torch
from torch import nn

from minipeft import costs
from minipeft.attach import trainable
from minipeft.methods import parse
from minipeft.methods.lora import LoRALinear
from minipeft.methods.qlora import quantize
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import BOS, VOCABULARY
from minipeft.views import merge


def measured(method, **shape):
    """How many numbers a method trains, counted in a real model of that shape (see `Config`)."""
    return counted(str(method), tuple(shape.items()))


@cache
def counted(method, shape):
    with torch.random.fork_rng(devices=[]):
        adapted = parse(method).attach(transformer(shape))
        return sum(p.numel() for p in trainable(adapted).values())


@cache
def transformer(shape):
    """One model for each shape, of which every method makes a view."""
    return Transformer(Config(**dict(shape))).float()


@cache
def factors(rank, into, out):
    """How many numbers LoRA trains in front of one weight (out, in), which may be too large for memory."""
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(1, 1)
        layer.weight = nn.Parameter(torch.zeros(()).expand(out, into), requires_grad=False)
        layer = LoRALinear(layer, rank, 1.0)
    return layer.A.numel() + layer.B.numel()


def step(method):
    """Memory, in bytes, of one step of Adam on a model of the shipped base's shape, activations left out."""
    return weighed(str(method))[0]


def saved(method):
    """Bytes of the tensors that a delta of this method keeps, on that model."""
    return weighed(str(method))[1]


def merged(method):
    """Bytes of that model with the method merged into it; None where that cannot be."""
    return weighed(str(method))[2]


@cache
def weighed(method):
    shape = {"vocab": len(VOCABULARY), "context": 24, "bos": BOS}
    with torch.random.fork_rng(devices=[]):
        adapted = parse(method).attach(transformer(tuple(shape.items())))
        memory, delta, whole = costs.predict(adapted), costs.delta_bytes(adapted), None
        with contextlib.suppress(TypeError):
            whole = costs.predict(merge(adapted)).weights
    return memory, delta, whole


@cache
def kept(trained, rank, rows, into, out):
    """Bytes of activations that autograd keeps of one `nn.Linear` until the backward pass.

    What LoRA makes of its weights, s·B, is as large for no rows at all, and is not counted.

    trained: is the weight trained? rank: of a LoRA in front of it, or None.
    """
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(into, out, dtype=torch.float32).requires_grad_(trained)
        layer = layer if rank is None else LoRALinear(layer, rank, 2.0)
    return kept_by(layer, torch.ones(rows, into)) - kept_by(layer, torch.ones(0, into))


def kept_by(layer, x):
    """Bytes of the tensors that a pass keeps, the layer's parameters not counted."""
    x = x.float().requires_grad_()
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    found = []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            found.append(tensor)  # held, so that its place is not given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values())


@cache
def stored(rows, columns, block_size, double_quant):
    """Bytes that an NF4 weight of this shape takes, its scales included."""
    weight = torch.linspace(-1, 1, rows * columns, dtype=torch.float32).view(rows, columns)
    tensors = quantize(weight, block_size=block_size, double_quant=double_quant)
    return sum(t.numel() * t.element_size() for t in tensors.values())
