"""What changes of weights look like inside, a planted head, and the best learning rate between those tried."""

import math

import pytest
import torch

from minipeft import Full, LoRA, base, deltas, merge
from minipeft.classroom.beside import beside
from minipeft.lab import spectra
from minipeft.lab.bottom import best_learning_rate, first_step
from minipeft.lab.planted_head import PlantedHead
from minipeft.worlds.random_words import RandomWords
from tests.models import stirred


@pytest.fixture
def view():
    return stirred(LoRA(rank=4, targets=("q", "up")), base())


def test_similarity_is_one_for_the_same_and_for_contained_spaces_and_zero_for_others():
    X = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]))
    Y = X.flip(0).flip(1)  # the same directions, in reverse order of size
    assert spectra.similarity(X, X, 2, 2) == pytest.approx(1)
    assert spectra.similarity(X, Y, 2, 2) == pytest.approx(0, abs=1e-6)
    assert spectra.similarity(X, Y, 1, 4) == pytest.approx(1)
    assert spectra.similarity(X, Y, 3, 3) == pytest.approx(2 / 3)


def test_a_change_of_rank_four_is_whole_with_four_directions_and_gone_without_them(view):
    assert {name for name, _, _ in spectra.matrices(view)} == set(deltas.updates(view))
    assert spectra.energy_share(view, 4) == pytest.approx(1)
    assert spectra.energy_share(view, 1) < 1
    for made, wanted in ((spectra.truncated(view, 4), merge(view)), (spectra.truncated(view, 4, without=True), base())):
        for (name, p), q in zip(made.named_parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(p, q, msg=name)
    assert spectra.relative_size(view) > 0


def test_a_large_new_direction_is_an_intruder_and_a_small_one_is_not():
    W = torch.diag(torch.arange(20.0, 0, -1))
    new = torch.ones(20, 1) / math.sqrt(20)
    assert spectra.new_directions(W, 1000 * new @ new.T) == 1
    assert spectra.new_directions(W, 0.01 * new @ new.T) == 0


@pytest.mark.parametrize(("cycles", "rank"), [(("ab",), 1), (("ab", "cd"), 2), (("abc",), 2)])
def test_letters_that_change_places_have_a_known_rank(cycles, rank):
    planted = PlantedHead(*cycles)
    assert planted.rank == rank
    assert planted.bound(rank) < 1e-6 < planted.bound(rank - 1)
    change, left = planted.imitate(Full(targets=("head.weight",)), 0, steps=60)
    assert left < 0.1
    assert change.shape == planted.change.shape


def test_adams_first_step_depends_on_the_signs_of_the_gradient_alone():
    torch.manual_seed(0)
    A, h, g = torch.randn(3, 5), torch.randn(3), torch.tensor([0.0, -2.0, 0.1, 30.0])
    expected = -2 * 0.01 * torch.outer(g, h).sign() @ A
    torch.testing.assert_close(first_step(A, h, g, s=2.0, lr=0.01), expected, rtol=1e-4, atol=1e-6)


def test_a_parabola_finds_the_best_learning_rate_between_those_tried():
    losses = {lr: math.exp(math.log(lr / 0.02) ** 2) for lr in (1e-3, 1e-2, 3e-2, 1e-1)}
    assert best_learning_rate(losses) == pytest.approx(0.02)
    assert best_learning_rate({0.1: 1.0, 0.2: 2.0, 0.3: 3.0}) == 0.1, "at the edge there is nothing to read between"


def test_random_words_are_the_same_each_time_and_all_are_asked():
    words = RandomWords(5)
    assert torch.equal(words.every().tokens, words.every().tokens)
    drawn = words.batch(10, torch.Generator().manual_seed(0))
    assert sorted(map(tuple, drawn.tokens.tolist())) == sorted(2 * [*map(tuple, words.every().tokens.tolist())])
    assert not torch.equal(words.every().targets, RandomWords(5, seed=1).every().targets)


def test_a_small_body_is_shown_beside_ours_and_used_only_if_it_is_right(capsys):
    def double(x):
        return 2 * x

    def wrong(x):
        return 2 * x + (x > 1)

    def empty(x):
        raise NotImplementedError("your turn")

    cases = {"one": (1.0,), "two": (2.0,)}
    assert beside(lambda x: x + x, double, cases)(3) == 6
    assert "your double." in capsys.readouterr().out
    assert beside(wrong, double, cases) is beside(empty, double, cases) is double
    assert "our double, until yours is right" in capsys.readouterr().out
