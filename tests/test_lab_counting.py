"""Counted multiplications are those of the formula."""

from minipeft.bases import base
from minipeft.lab.counting import multiplications
from minipeft.methods import PromptTuning
from minipeft.tasks import encode


def test_a_pass_takes_as_many_multiplications_as_the_formula_says():
    tokens, d = encode(": cabbed =")[None], 64
    T, V = tokens.numel(), base().config.vocab
    for n, model in ((0, base()), (4, PromptTuning(length=4).attach(base()))):
        S = n + T
        assert multiplications(model, tokens) == 2 * (12 * d * d * S + 2 * d * S * S) + T * d * V
