"""The worlds that methods are compared in: each can be told, and its methods fit its base."""

import pytest
import torch

from minipeft.attach import trainable
from minipeft.bases import base
from minipeft.lab import WORLDS, known, trial, world
from minipeft.lab.trial import started
from minipeft.training import Recipe

each = pytest.mark.parametrize("name", sorted(set(WORLDS) - {"letters-d64"}))


@each
def test_the_base_of_a_world_solves_what_it_was_pretrained_on(name):
    assert known(world(name)) > 0.85


@each
def test_every_method_of_a_world_fits_its_base_and_trains_less_than_all_or_says_full(name):
    w = world(name)
    goal = w.goal(w.first)
    whole = sum(p.numel() for p in base(name).parameters())
    for one in w.methods:
        torch.manual_seed(0)
        view = one.method.attach(started(goal, name))
        share = sum(p.numel() for p in trainable(view).values()) / whole
        assert share < 0.2 or str(one.method).startswith("Full")


@each
def test_a_trial_in_a_world_leaves_the_base_as_it_was(name):
    w = world(name)
    one = w.methods[0]
    recipe = Recipe(steps=2, batch_size=4)
    run = trial(one.method, w.goal(w.first), one.lr, 0, recipe, name, w.examples and 2)
    assert run["restored"]
    assert 0 <= run["accuracy"] <= 1
    with pytest.raises(ValueError, match=f"there are: {w.first}|like reverse"):
        w.goal("magic")
