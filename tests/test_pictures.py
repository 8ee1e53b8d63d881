"""Printed characters and handwritten digits: the same in every run, balanced, and divided cleanly."""

import pytest
import torch
from torch import nn

from minipeft.models.vision import ViT
from minipeft.training import evaluate, fit
from minipeft.worlds.pictures import CHARACTERS, CONFIG, SIDE, SPLITS, Characters, Digits, characters, digits, scores


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def each_of(pictures):
    """The pictures as bytes."""
    return [picture.numpy().tobytes() for picture in pictures]


def test_every_character_is_there_in_nearly_every_font_and_none_is_a_digit():
    pictures, labels = characters()
    assert len(set(CHARACTERS)) == len(CHARACTERS) == CONFIG.classes == 118
    assert not any(c.isdigit() for c in CHARACTERS)
    assert labels.bincount(minlength=118).min() >= 11
    assert pictures.shape == (len(labels), SIDE, SIDE)
    assert pictures.flatten(1).amax(1).min() > 0.8, "each shows something"
    assert len(set(each_of(pictures[labels == 0]))) > 8, "fonts differ"


def test_rendering_and_warping_are_the_same_every_time():
    assert all(map(torch.equal, characters(), characters.__wrapped__()))
    first, again, other = (Characters().batch(20, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.tokens, other.tokens)
    assert 0 <= first.tokens.min() < first.tokens.max() <= 1
    assert first.tokens.shape == (20, SIDE, SIDE)


def test_no_digit_is_in_two_splits_and_all_classes_have_as_many():
    found = {split: each_of(digits(split, False).flatten(0, 1)) for split in SPLITS}
    assert {split: len(pictures) for split, pictures in found.items()} == {
        "train": 2500,
        "validation": 500,
        "test": 2000,
    }
    assert len(set().union(*found.values())) == 5000
    for split, number in SPLITS.items():
        assert Digits(split).every().targets.bincount().tolist() == [number] * 10


@pytest.mark.parametrize("paper", [False, True])
def test_a_few_of_each_digit_are_the_same_pictures_as_among_all(paper):
    every, few, others = Digits(paper=paper).every(), *(Digits(each=7, seed=s, paper=paper).every() for s in (1, 2))
    labels = dict(zip(each_of(every.tokens), every.targets.tolist(), strict=True))
    assert few.targets.bincount().tolist() == [7] * 10
    assert [labels[picture] for picture in each_of(few.tokens)] == few.targets.tolist()
    assert len(set(each_of(few.tokens)) & set(each_of(others.tokens))) < 10
    assert torch.equal(few.tokens, Digits(each=7, seed=1, paper=paper).every().tokens)


def test_a_batch_takes_each_digit_as_often_as_another():
    batch = Digits(each=3).batch(60, generator())
    assert sorted(each_of(batch.tokens)) == sorted(2 * each_of(Digits(each=3).every().tokens))


def test_paper_is_light_and_ink_is_dark():
    clean, paper = (Digits("validation", paper=paper).every().tokens for paper in (False, True))
    assert paper[clean == 0].mean() > paper[clean > 0.9].mean() + 0.4
    assert 0 <= paper.min() < paper.max() <= 1
    assert sorted(each_of(digits.__wrapped__("validation", True).flatten(0, 1))) == sorted(each_of(paper))


class Noted(nn.Module):
    """Says "0" to every picture, and notes which it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, pictures):
        self.asked += each_of(pictures)
        return torch.zeros(len(pictures), 10).index_fill(1, torch.tensor([0]), 1.0)


def test_evaluate_asks_each_digit_once():
    model = Noted()
    assert evaluate(model, Digits("validation")).accuracy == pytest.approx(0.1)
    assert sorted(model.asked) == sorted(each_of(Digits("validation").every().tokens))


def test_a_vit_learns_ten_digits_by_heart_and_an_untrained_one_guesses_characters():
    torch.manual_seed(0)
    model, ten = ViT(CONFIG), Digits(each=1, paper=True)
    assert scores(model)["printed characters, freshly warped"] < 0.05
    fit(model, ten, steps=40, lr=2e-3, batch_size=10, device="cpu", progress=False)
    assert evaluate(model, ten).accuracy == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"split": "dev"}, "split must be one of train, validation, test, got the text 'dev'"),
        ({"split": "validation", "each": 51}, "the validation split has 50 of each digit, got each=51: ask for fewer"),
        ({"each": 0}, "Digits: each must be a whole number"),
        ({"seed": -1}, "Digits: seed must be"),
        ({"paper": "dark"}, "paper must be True or False, got the text 'dark'"),
    ],
)
def test_digits_that_are_not_there_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        Digits(**settings)
