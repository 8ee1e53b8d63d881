"""The planted teacher and its student; the count of multiplications."""

import pytest
import torch

from minipeft import LoRA, base
from minipeft.lab.counting import multiplications
from minipeft.lab.planting import distance, imitate, plant
from minipeft.tasks import encode
from minipeft.training import Recipe

PLACES = {"blocks.1.attn.v": (2, 0.7), "blocks.0.mlp.down": (1, 0.3)}


def test_the_teacher_is_the_base_but_for_the_planted_ranks():
    teacher, plain = plant(PLACES, 0).state_dict(), base().state_dict()
    changed = {name: teacher[name] - plain[name] for name in plain if not torch.equal(teacher[name], plain[name])}
    ranks = {name.removesuffix(".weight"): int(torch.linalg.matrix_rank(d, rtol=1e-4)) for name, d in changed.items()}
    assert ranks == {path: rank for path, (rank, _) in PLACES.items()}


def test_the_seed_draws_the_teacher():
    assert distance(plant(PLACES, 0), plant(PLACES, 0)) == 0 < distance(plant(PLACES, 0), plant(PLACES, 1))


def test_a_student_without_steps_leaves_all_of_the_error_and_training_lowers_it():
    method = LoRA(rank=2, alpha=4, targets=tuple(PLACES))
    _, untrained = imitate(method, PLACES, 0.0, 0, Recipe(steps=1, batch_size=4))
    _, error = imitate(method, PLACES, 0.03, 0, Recipe(steps=25, batch_size=16))
    assert untrained == pytest.approx(1.0)
    assert error < 0.9


def test_multiplications_are_those_of_the_matrices_and_of_attention():
    model, tokens = base(), encode(": cabbed =")[None]
    T, d, layers = tokens.shape[1], 64, 2
    matrices = T * layers * (4 * d * d + 2 * d * 4 * d) + T * d * model.head.out_features
    assert multiplications(model, tokens) == matrices + layers * 2 * T * T * d
