"""Products of a training step and ink where a model looks, on cases that can be counted by hand."""

import pytest
import torch
from torch import nn

from minipeft.lab.looking import ink_seen, step_multiplications
from minipeft.tasks import Batch


def test_a_trained_weight_takes_part_in_one_product_more_than_a_frozen_one():
    batch = Batch(torch.rand(5, 8), torch.zeros(5, dtype=torch.long))
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    first, second = 5 * 8 * 6, 5 * 6 * 4
    assert step_multiplications(model, batch) == 2 * first + 3 * second, "no gradient is sent to the pictures"
    model[0].requires_grad_(False)
    assert step_multiplications(model, batch) == first + 2 * second
    assert all(p.grad is None for p in model.parameters())


def test_ink_is_seen_where_attention_lies():
    picture = torch.zeros(1, 4, 4)
    picture[:, :2, 2:] = 1  # the patch on the right above
    there = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    assert ink_seen(there, picture) == pytest.approx(4)
    assert ink_seen(torch.full((1, 2, 2), 0.25), picture) == pytest.approx(1)
    assert ink_seen(there.flip(2), picture) == 0
    both = torch.cat([picture, picture.flip(2)])
    assert ink_seen(there, both) == pytest.approx(2), "one map for two pictures"
