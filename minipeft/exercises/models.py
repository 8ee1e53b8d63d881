"""What observations look at: small models, rows and weights, the same in every run and on every machine."""

import zlib
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.transformer import Begin, Config, Transformer

VOCAB, BOS, T = 13, 1, 5


def numbers(name, shape, scale=0.5):
    """Normal numbers that depend on the name and the shape alone, not on what was drawn before."""
    return scale * drawn(name, tuple(shape)).to(torch.get_default_dtype())


@cache
def drawn(name, shape):
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {shape}".encode()))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def fill(module, only=None, scale=0.5):
    """Give every parameter (or only the trainable ones, with `only="trainable"`) numbers by its name."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if only is None or p.requires_grad:
                p.copy_(numbers(name, p.shape, scale))
    return module


def linear(into=5, out=3, bias=True, name="base"):
    """A frozen Linear with in ≠ out and a bias that is not zero."""
    layer = nn.Linear(into, out, bias)
    with torch.no_grad():
        for which, p in layer.named_parameters():
            p.copy_(numbers(f"{name}.{which}", p.shape))
    return layer.requires_grad_(False)


def model(bos=None, causal=True, dim=6, layers=2, heads=2, ff=8, context=16, pre_norm=None):
    """A Transformer with every parameter random: nothing hides behind a zero. Positions absolute, or from BOS.

    pre_norm: None for a decoder as GPT-2 is, or an encoder as BERT is.
    """
    return fresh(transformer, bos, causal, dim, layers, heads, ff, context, causal if pre_norm is None else pre_norm)


def transformer(bos, causal, dim, layers, heads, ff, context, pre_norm):
    return Transformer(Config(VOCAB, dim, layers, heads, ff, context, causal=causal, pre_norm=pre_norm, bos=bos))


KINDS = {  # of models: whether a token sees those behind it says nothing about where the norms stand
    f"{name}, norms {'before' if pre_norm else 'after'}": {"causal": causal, "pre_norm": pre_norm}
    for name, causal in (("decoder", True), ("encoder", False))
    for pre_norm in (causal, not causal)
}


class Learned(Begin):
    """In place of another method on `begin`: each layer has two keys and values, of two heads, for all rows alike."""

    def forward(self, blocks):
        cache = super().forward(blocks)
        for i, layer in enumerate(cache.layers):
            layer.extend(*(numbers(f"learned {w} {i}", (2, 2, 3)) for w in "kv"))
        return cache


def fresh(make, *settings):
    """A module with numbers by their names, nobody else's. Made once and then copied, which is several times faster."""
    return copied(filled(make, torch.get_default_dtype(), *settings))


@cache
def filled(make, dtype, *settings):
    state = torch.random.get_rng_state()
    made = fill(make(*settings)).eval()
    torch.random.set_rng_state(state)  # the first call leaves no other random numbers behind than the next ones
    return made


def copied(module):
    """A deep copy of a module that holds nothing but parameters, buffers, modules and settings."""
    new = module.__class__.__new__(module.__class__)
    new.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in vars(module).items()}
    for name, p in module._parameters.items():
        new._parameters[name] = p if p is None else nn.Parameter(p.detach().clone(), p.requires_grad)
    for name, b in module._buffers.items():
        new._buffers[name] = b if b is None else b.clone()
    for name, child in module._modules.items():
        new._modules[name] = copied(child)
    return new


def rows(pad=None):
    """Three rows of tokens that begin with BOS, of 5, 3 and 4 tokens: (3, 5), and the mask; None without padding.

    pad: "left" or "right"; without it all have 5.
    """
    lengths = (T, 3, 4) if pad else (T, T, T)
    tokens, mask = torch.zeros(3, T, dtype=torch.long), torch.zeros(3, T, dtype=torch.bool)
    for i, n in enumerate(lengths):
        row = torch.tensor([BOS] + [2 + (5 * i + 3 * j) % (VOCAB - 2) for j in range(n - 1)])
        where = slice(T - n, T) if pad == "left" else slice(0, n)
        tokens[i, where], mask[i, where] = row, True
    return tokens, (mask if pad else None)


def loss(made, tokens, mask=None):
    """A next-token loss, to send gradients back."""
    logits = made(tokens, mask)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def gradients(made):
    """{name: gradient, or None where none arrived} of the trainable parameters."""
    return {name: p.grad for name, p in made.named_parameters() if p.requires_grad}


def arrivals(made, answer):
    """{name: does a gradient arrive?} of everything that is trained, when the answer of a pass is sent back.

    Everything that is trained has to be far from its start (`fill`): behind a zero nothing arrives.
    """
    if answer.requires_grad:  # else nothing is trained that the answer depends on
        answer.pow(2).sum().backward()
    return {name: g is not None and bool(g.abs().max() > 0) for name, g in gradients(made).items()}


def arrivals_in_a_pass(made):
    """The same for a whole model, when its logits for `rows()` are sent back."""
    return arrivals(made, made(rows()[0]))


def through_weight(made):
    """{name: gradient, or None where none arrived} of what is trained, where something reads `weight` and `bias`.

    nn.MultiheadAttention does so with its out_proj, and so does a head that is tied to the embedding: they never call
    the layer. Everything that is trained has to be far from its start (`fill`).
    """
    read = sum((change * numbers(name, change.shape)).sum() for name, change in made.deltas().items())
    if read.requires_grad:
        read.backward()
    return gradients(made)


def scattered(run, into=5):
    """What is answered otherwise to an x (2, 4, in) whose rows do not lie in memory one behind the other.

    One such x is transposed, in the other the tokens of a row share their numbers.
    """
    found = []
    for x in (numbers("x", (into, 4, 2)).permute(2, 1, 0), numbers("x", (2, 1, into)).expand(2, 4, into)):
        usual = run(x.contiguous())
        found.append(run(x) - usual)
    return found


def after_a_move(make, run):
    """The answer after a pass and a change of all numbers, minus that of a new module which has the same numbers."""
    old, new = make(), fill(make(), scale=0.3)
    run(old)
    return run(fill(old, scale=0.3)) - run(new)


def types(make, run):
    """How a method takes bases of other types: {type: {name of what is trained, "answer": its type, "value": right?}}

    make: type → the method in front of a base of that type. run: that → its answer. Right is what agrees, within the
    type's own rounding, with the answer in double precision.
    """
    found, exact = {}, None
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        with usual_type():
            made = fill(make(dtype), "trainable")
            answer = run(made)
        exact = answer.detach() if exact is None else exact
        off = float((answer.detach().double() - exact).norm() / exact.norm())
        kinds = {name: short(p.dtype) for name, p in made.named_parameters() if p.requires_grad}
        found[short(dtype)] = kinds | {"answer": short(answer.dtype), "value": off < 0.05}
    return found


@contextmanager
def usual_type():
    """Inside, what is made without a type is float32, as in a student's own program; else it is in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def short(dtype):
    return str(dtype).removeprefix("torch.")
