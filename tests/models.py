"""Small models and rows that test files share. Every parameter is random: nothing hides behind a zero or a one."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import trainable
from minipeft.methods.adapter_fusion import AdapterFusion, fusions
from minipeft.models.llama import Llama, LlamaConfig
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import IGNORE, Batch

VOCAB, BOS, DIM, LAYERS, HEADS, FF, CONTEXT, T = 23, 1, 12, 3, 3, 20, 24, 7


def make(bos=BOS, causal=True, context=CONTEXT, **settings):
    """Positions from BOS, or absolute with bos=None, or "rotary", a Llama; pre-norm if causal, else post-norm.

    settings: more of a Config.
    """
    torch.manual_seed(0)
    if bos == "rotary":
        model = Llama(LlamaConfig(VOCAB, DIM, LAYERS, 2 * HEADS, HEADS, FF, context, **{"tied": False} | settings))
        return moved(model, model.parameters(), 0.3).eval()
    settings = {"layers": LAYERS, "heads": HEADS, "ff": FF, "pre_norm": causal} | settings
    model = Transformer(Config(VOCAB, DIM, context=context, causal=causal, bos=bos, **settings))
    return moved(model, model.parameters(), 0.3).eval()


def one(layer):
    """A model of a single layer, which is called `layer`."""
    return nn.Sequential(OrderedDict(layer=layer))


def moved(model, parameters, std):
    """The model, with random numbers added to these parameters."""
    with torch.no_grad():
        for p in parameters:
            p.add_(std * torch.randn_like(p))
    return model


def stirred(method, model, seed=1):
    """A view of the model with the method on it, whose parameters are far from their start."""
    torch.manual_seed(seed)
    view = method.attach(model)
    moved(view, trainable(view).values(), 0.4)
    if isinstance(method, AdapterFusion):
        for adapters in fusions(view).values():  # trained ones, say
            for b in adapters.buffers():
                b.normal_(std=0.4)
    return view


def rows(side=None):
    """Three rows that begin with BOS, of 7, 4 and 6 tokens: alone, as one padded batch, and its mask."""
    torch.manual_seed(2)
    alone = [F.pad(torch.randint(2, VOCAB, (n - 1,)), (1, 0), value=BOS) for n in (T, 4, 6)]
    pads = [(T - len(r), 0) if side == "left" else (0, T - len(r)) for r in alone]
    tokens = torch.stack([F.pad(r, p) for r, p in zip(alone, pads, strict=True)])
    mask = torch.stack([F.pad(torch.ones(len(r), dtype=torch.bool), p) for r, p in zip(alone, pads, strict=True)])
    return alone, tokens, mask


def through(model, x, n):
    """Logits of what stands behind the first n of the vectors x (B, n+T, d), to which positions are added."""
    for block in model.blocks:
        x = block(x, "causal")
    return model.head(model.norm(x[:, n:]))


def bits(model):
    """A copy of all numbers of a model, to compare with later: {name: tensor}."""
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def same_bits(model, before):
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], t) for name, t in before.items())


def close(a, b, tol=1e-5):
    torch.testing.assert_close(a, b, atol=tol, rtol=tol)


def apart(a, b, tol=0.1):
    """Visibly different: by more than `tol` somewhere."""
    assert (a - b).abs().max() > tol


def count(model):
    return sum(p.numel() for p in trainable(model).values())


def gap(some, others):
    """The greatest difference between tensors {name: tensor or None}, which must be the same ones."""
    assert some.keys() == others.keys()
    assert [n for n, t in some.items() if t is None] == [n for n, t in others.items() if t is None]
    return max(float((t - others[name]).abs().max()) for name, t in some.items() if t is not None)


class Ragged:
    """A task: rows of 3 to 7 tokens, padded on the left, of which some are asked; in the rows `silent` nothing is."""

    def __init__(self, silent=(3,)):
        self.silent = list(silent)

    def __str__(self):
        return "ragged"

    def batch(self, size, generator):
        def random(high, *shape):
            return torch.randint(high, shape, generator=generator)

        mask = torch.arange(7) >= random(5, size, 1)
        tokens = torch.where(mask, 2 + random(VOCAB - 2, size, 7), 0)
        tokens[torch.arange(size), mask.int().argmax(1)] = BOS
        targets = torch.where(mask & (random(2, size, 7) > 0), random(VOCAB, size, 7), IGNORE)
        targets[:, -1] = random(VOCAB, size)
        targets[[row for row in self.silent if row < size]] = IGNORE
        return Batch(tokens, targets, mask)
