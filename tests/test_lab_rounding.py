"""What is left of a change of weights when they are rounded."""

import pytest
import torch

from minipeft.lab.rounding import after_rounding, in_steps
from minipeft.methods.qlora import decode, encode, levels_of

NF4 = levels_of("nf4")


def test_a_step_reaches_from_middle_to_middle_and_grows_with_the_block():
    coarse = torch.cat([NF4, torch.zeros(48), 3 * NF4])  # one block of absmax 1 and the beginning of one of 3
    change = torch.full_like(coarse, 0.01)
    change[7] = -0.02
    steps = in_steps(coarse.view(8, 10), change.view(8, 10))
    assert steps.shape == (80,)
    for code in range(1, 15):
        width = (NF4[code + 1] - NF4[code - 1]) / 2
        assert steps[code] == pytest.approx(abs(change[code].item()) / width.item(), rel=1e-5)
        assert steps[64 + code] == pytest.approx(0.01 / (3 * width.item()), rel=1e-5)
    assert steps[0] == pytest.approx(0.01 / (NF4[1] - NF4[0]).item(), rel=1e-5)
    assert steps[15] == pytest.approx(0.01 / (NF4[15] - NF4[14]).item(), rel=1e-5)


def test_weights_on_their_levels_lose_a_small_change_and_others_keep_it_on_average():
    torch.manual_seed(0)
    W = torch.randn(500, 130)  # the last block is not full
    coarse = decode(*encode(W, NF4, 64), NF4, 64)[: W.numel()].view_as(W)
    change = 0.01 * torch.randn(W.shape)
    steps = in_steps(coarse, change)
    moved, arrived = after_rounding(W, change)
    assert moved == pytest.approx(steps.mean().item(), rel=0.15)
    assert arrived == pytest.approx(1, abs=0.1)
    moved, arrived = after_rounding(coarse, change)
    assert moved < 1e-3
    assert arrived < 0.1


def test_a_change_from_level_to_level_arrives_in_full():
    W = torch.zeros(64)
    W[0], change = 1, torch.zeros(64)  # absmax stays 1
    change[1] = NF4[9]
    assert after_rounding(W, change) == pytest.approx((1 / 64, 1))
