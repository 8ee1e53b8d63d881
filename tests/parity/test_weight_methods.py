"""Methods that change weights compute, train, merge and count as `peft` has them; their own tests show where they part.

Everywhere what is trained is far from its start, ranks do not divide the width, α differs from the rank, biases are not
zero, and some layers are not square: on a fresh LoRA nearly any mistake passes, because BA = 0.
"""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from minipeft.attach import trainable
from minipeft.methods import IA3, AdaLoRA, DoRA, LoRA, PiSSA, VeRA
from minipeft.views import merge
from tests.models import bits, one, same_bits

SIX = ("q", "k", "v", "o", "up", "down")
METHODS = [
    LoRA(3, 5), LoRA(4, 1, (*SIX, "token")), LoRA(3, 5, SIX, rslora=True), DoRA(4, 1), DoRA(3, 5, (*SIX, "head")),
    VeRA(5), VeRA(5, SIX, seed=17), AdaLoRA(2, 3, ("q", "v")), AdaLoRA(2, 5), PiSSA(3, (*SIX, "head")), IA3(),
]  # fmt: skip
EACH = pytest.mark.parametrize("method", METHODS, ids=str)
ALONE = [method for method in METHODS if not isinstance(method, IA3)]
ALONE = [replace(method, targets=("layer",)) for method in ALONE] + [IA3(("layer",), ()), IA3((), ("layer",))]
LINEAR = [nn.Linear(7, 10), nn.Linear(7, 10, bias=False)]
OTHERS = [
    nn.Embedding(11, 6),
    nn.Embedding(11, 6, padding_idx=4),
    nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 2)),
    nn.Conv2d(3, 5, 1, stride=2),
    nn.Conv2d(3, 5, 3, padding="same"),
]
CASES = [(method, layer) for method in ALONE for layer in LINEAR]
CASES += [(method, layer) for method in ALONE if isinstance(method, LoRA) for layer in OTHERS]
INPUTS = {
    nn.Linear: lambda: torch.randn(2, 5, 7).double(),
    nn.Embedding: lambda: torch.tensor([[4, 0, 10, 4], [7, 7, 1, 3]]),
    nn.Conv2d: lambda: torch.randn(2, 3, 8, 9).double(),
}


@pytest.mark.parametrize(("method", "layer"), CASES, ids=str)
def test_a_layer(method, layer, both, same_gradients, close, apart):
    base, x = one(copy.deepcopy(layer)).double().requires_grad_(False), INPUTS[type(layer)]()
    for p in base.parameters():  # the same numbers in every run
        p.normal_(std=0.4)
    before, two = bits(base), both(base, method)
    mine, other = (x.clone().requires_grad_(x.is_floating_point()) for _ in range(2))
    got, expected = two.ours(mine), two.theirs(other)
    apart(expected, base(x))
    close(got, expected, 1e-9)
    same_gradients(got, expected)
    two.compare(lambda p: p.grad)
    two.count()
    if x.is_floating_point():
        close(mine.grad, other.grad, 1e-9)
    merged, library = merge(two.ours).layer, two.layers()[0][1]
    two.theirs.merge_adapter()
    close(merged.weight, library.base_layer.weight, 1e-9)
    close(merged(x), expected, 1e-9)
    if getattr(layer, "bias", None) is not None:
        close(merged.bias, library.base_layer.bias, 1e-9)
    assert torch.equal(two.ours(x), got)
    assert isinstance(method, PiSSA) or same_bits(base, before)


@EACH
def test_logits_gradients_and_the_merged_model(method, base, rows, both, same_gradients, close, apart):
    two = both(base, method)
    got, expected = two.ours(rows.tokens, rows.mask), two.theirs(rows.tokens, rows.mask)
    apart(expected[rows.real], base(rows.tokens, rows.mask)[rows.real])
    close(got[rows.real], expected[rows.real], 1e-8)
    same_gradients(got[rows.real], expected[rows.real])
    two.compare(lambda p: p.grad, 1e-8)
    two.count()
    with torch.no_grad():
        merged = two.theirs.merge_and_unload()(rows.tokens, rows.mask)
        close(merge(two.ours)(rows.tokens, rows.mask)[rows.real], merged[rows.real], 1e-8)


@EACH
def test_a_fresh_one_is_the_base_in_both_and_the_same_parts_are_zero(method, base, rows, both, close):
    two = both(base.float(), method, std=None)
    expected = base(rows.tokens)
    for model in (two.ours, two.theirs):
        close(model(rows.tokens), expected, 1e-5 if isinstance(method, DoRA | PiSSA) else 0)
    zero = {name: not p.any() for name, p in trainable(two.ours).items()}
    assert zero == {name: not p.any() for name, p in two.library().items()}
    two.count()


@EACH
@pytest.mark.parametrize("rows", ["left"], indirect=True)
def test_five_steps_of_training_are_the_same(method, base, rows, both, train, close):
    two = both(base, method, std=0.3)
    curves = [
        train(list(trainable(model).values()), lambda model=model: rows.loss(model(rows.tokens, rows.mask)))
        for model in (two.ours, two.theirs)
    ]
    close(*curves)
    assert curves[0][-1] < curves[0][0] - 0.01
    two.compare(lambda p: p.detach(), 1e-6)
