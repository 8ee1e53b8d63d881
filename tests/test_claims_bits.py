"""What the claims on four bits of a real model calculate with."""

import pytest
import torch

from claims.real_bits import BLOCK, LEVELS, at_random, rounded, steps
from minipeft.methods.qlora import dequantize, encode, levels_of, quantize

NF4 = LEVELS["NF4"]


@pytest.fixture
def W():
    return torch.randn(24, 80, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "quant_type"), [("NF4", "nf4"), ("FP4 (E2M1)", "fp4"), ("int3", "int3")])
def test_weights_are_rounded_as_qlora_stores_them(W, name, quant_type):
    assert torch.equal(rounded(W, LEVELS[name]), dequantize(quantize(W, quant_type), W.shape, quant_type))


def test_every_code_of_four_bits_has_fifteen_or_sixteen_levels_from_minus_one_to_one():
    for name, levels in LEVELS.items():
        assert (levels.diff() > 0).all(), name
        assert (levels[0], levels[-1]) == (-1, 1), name
        assert len(levels) in ((7, 8) if "3" in name and "E3" not in name else (15, 16)), name


def test_rounding_at_random_takes_one_of_the_two_levels_beside_a_value_and_is_right_on_average(W):
    lot, absmax = torch.Generator().manual_seed(0), encode(W, NF4, BLOCK)[1].repeat_interleave(BLOCK).view(W.shape)
    drawn = torch.stack([at_random(W, NF4, lot) for _ in range(400)])
    scaled = W / absmax
    below = NF4[(torch.bucketize(scaled, NF4, right=True) - 1).clamp(0, 14)] * absmax
    above = NF4[torch.bucketize(scaled, NF4).clamp(1, 15)] * absmax
    assert ((drawn - below).abs().minimum((drawn - above).abs()) < 1e-6).all()
    assert (drawn.mean(0) - W).abs().max() < 0.25 * absmax.max()
    assert ((drawn.mean(0) - W) / absmax).mean().abs() < 1e-3


def test_rounding_at_random_leaves_what_lies_on_a_level(W):
    on_levels = dequantize(quantize(W, double_quant=False), W.shape)
    drawn = at_random(on_levels, NF4, torch.Generator().manual_seed(0))
    assert ((drawn - on_levels).abs() < 1e-5).float().mean() > 0.99  # a hair beside a level, it may go to the next one


def test_a_step_is_the_distance_to_the_next_level_on_the_side_of_the_change():
    codes, levels = torch.tensor([0, 7, 7, 15]), levels_of("nf4")
    found = steps(codes, torch.tensor([1.0, 1.0, -1.0, -1.0]), levels)
    assert torch.equal(found, torch.stack([levels[1] - levels[0], levels[8], -levels[6], levels[15] - levels[14]]))
