"""What a method does at one of the places of an encoder-decoder."""

import pytest
import torch

from minipeft import PrefixTuning, base
from minipeft.lab.places import moved_attention, multiplications
from minipeft.worlds.pairs import CONFIG


@pytest.fixture(scope="module")
def model():
    return base("letters-pairs")


def view_at(place, model):
    torch.manual_seed(0)
    return PrefixTuning(length=4, places=(place,)).attach(model)


def test_the_base_has_not_moved(model):
    assert moved_attention(model, model, ": cadgib") == [0, 0]


def test_a_prefix_of_the_memory_moves_nothing_in_the_first_block_and_one_of_the_encoder_does(model):
    assert moved_attention(view_at("memory", model), model, ": cadgib")[0] < 1e-6
    assert 0.01 < moved_attention(view_at("encoder", model), model, ": cadgib")[0] <= 1


@pytest.mark.parametrize("place", ["encoder", "memory", "decoder"])
def test_a_prefix_multiplies_with_its_keys_and_values_alone(place, model):
    more = multiplications(view_at(place, model), ": cadgib", CONFIG.start)
    assert more - multiplications(model, ": cadgib", CONFIG.start) == 2 * 7 * 2 * 4 * 64
