"""What is DoRA's own beside `peft`; the rest is in test_weight_methods.py."""

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.methods.dora import DoRA
from tests.models import one

METHOD = DoRA(3, 5, ("layer",))


def test_a_fresh_magnitude_is_the_length_of_a_row_in_both(both, close):
    base, x = one(nn.Linear(7, 10)), torch.randn(2, 5, 7)
    two = both(base, METHOD, std=None)
    assert torch.equal(two.ours(x), base(x))
    close(two.theirs(x), base(x))
    close(two.ours.layer.m, two.library()["layer.m"], 0)
    assert two.ours.layer.m.shape == (10,)  # one for each output, whatever the paper's "column"


def test_were_the_norm_not_constant_the_gradient_would_be_another(both, close):
    base, x = one(nn.Linear(7, 10)), torch.randn(4, 7)
    two = both(base, METHOD)
    two.theirs(x).square().sum().backward()
    A, B, m, s = two.ours.layer.A, two.ours.layer.B, two.ours.layer.m, 5 / 3
    V = base.layer.weight.detach() + s * B @ A
    F.linear(x, (m / V.norm(dim=1))[:, None] * V, base.layer.bias).square().sum().backward()
    through, constant = A.grad, two.library()["layer.A"].grad
    assert (through - constant).norm() / constant.norm() > 0.3
    two.ours.zero_grad()
    two.ours(x).square().sum().backward()
    close(A.grad, constant, 1e-5)
