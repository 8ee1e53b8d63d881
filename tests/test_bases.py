"""The shipped bases know what their cards say, and are made by the committed script."""

import importlib.util
from collections import Counter

import pytest

from minipeft import Mixture, base, evaluate
from minipeft.bases import FOLDER, card_of
from minipeft.tasks import HELD_OUT

spec = importlib.util.spec_from_file_location("pretrain", FOLDER / "pretrain.py")
pretrain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pretrain)

each_base = pytest.mark.parametrize("name", pretrain.LADDER)


@each_base
def test_a_base_knows_what_its_card_says(name):
    card, model = card_of(name), base(name)
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert tuple(card["held_out"]) == HELD_OUT
    scores = card["scores"]
    assert scores["pretraining mixture"] > 0.99
    assert evaluate(model, Mixture()).accuracy == pytest.approx(scores["pretraining mixture"], abs=0.01)
    held = evaluate(model, Mixture(HELD_OUT)).accuracy
    assert held == pytest.approx(scores["held-out pairs, instructed"], abs=0.02)
    assert not any(p.requires_grad for p in model.parameters())


@each_base
def test_the_card_is_that_of_the_script(name):
    width, seed = pretrain.LADDER[name]
    card = card_of(name)
    assert card["name"] == name
    assert pretrain.Config(**card["config"]) == pretrain.config(width)
    made_by = pretrain.RECIPES[width] | pretrain.SHARED | {"seed": seed}
    assert {key: card["recipe"][key] for key in made_by} == made_by


def test_the_ladder_has_four_widths_three_times_and_nothing_else_is_shipped():
    widths = Counter(width for width, _ in pretrain.LADDER.values())
    assert len(widths) >= 4
    assert set(widths.values()) == {3}
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == {*pretrain.LADDER, *pretrain.WORLDS}
    worlds = [FOLDER / f"{name}.{kind}" for name in pretrain.WORLDS for kind in ("safetensors", "json")]
    assert sum(path.stat().st_size for path in worlds) < 6e6
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 25e6


def test_there_is_no_base_of_another_name():
    with pytest.raises(SystemExit, match="there is no 'letters-d65'"):
        pretrain.main("letters-d65")
