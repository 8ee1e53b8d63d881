"""Pictures together with the captions that they are classified by, as the lab asks a dual encoder."""

import sys

import torch

from minipeft.lab.trial import sets, trial
from minipeft.lab.worlds import SCENES
from minipeft.methods import LoRA
from minipeft.models.dual_encoder import DualEncoder
from minipeft.training import Recipe, evaluate
from minipeft.worlds.scenes import CLASSES, CONFIG, SEEN, Drawn, Naming, class_captions, classifier


def model():
    torch.manual_seed(0)
    return DualEncoder(CONFIG).requires_grad_(False).eval()


def test_naming_asks_a_dual_encoder_what_a_classifier_of_the_same_captions_answers():
    made, settings = model(), {"style": "dusk", "each": 2, "seed": 3, "split": "held-out"}
    for dialect in ("plain", "south"):
        asked, shown = Naming(**settings, dialect=dialect).every(), Drawn(**settings).every()
        torch.testing.assert_close(asked.logits(made), classifier(made, dialect)(shown.tokens))
        assert torch.equal(asked.targets, shown.targets)


def test_training_offers_only_seen_combinations_and_every_test_offers_all():
    training, choosing, reported = sets(Naming("wire", dialect="north"), 2, 5)
    assert (training.each, training.seed, training.split) == (2, 5, "train")
    assert (choosing.split, reported.split) == ("validation", "test")
    asked = training.batch(32, torch.Generator().manual_seed(0))
    assert torch.equal(asked.more["captions"], class_captions("north", SEEN))
    assert torch.equal(reported.every().more["captions"], class_captions("north", CLASSES))
    assert all(goal.style == "wire" and goal.dialect == "north" for goal in (training, choosing, reported))


def test_retention_is_asked_in_the_style_and_the_words_of_pretraining():
    known = Naming("dusk", dialect="south").known()
    assert (known.style, known.dialect, known.split) == ("plain", "plain", "test")
    assert evaluate(model(), known).accuracy < 0.2


def test_a_trial_on_one_tower_trains_it_and_gives_the_base_back(monkeypatch):
    monkeypatch.setattr(sys.modules["minipeft.lab.trial"], "shipped", lambda name: model())
    found = trial(LoRA(rank=2, places=("text",)), Naming("dusk"), 1e-2, 0, Recipe(steps=2), "scenes", 1)
    assert found["restored"]
    assert 0 <= found["retention"] < 0.3
    assert found["parameters"] == 2 * 4 * (64 + 64)


def test_every_method_of_the_world_goes_where_its_places_say():
    for tuned in SCENES:
        view = tuned.method.attach(model())
        learns = {name.partition(".")[0] for name, p in view.named_parameters() if p.requires_grad}
        assert learns == set(tuned.method.places or ("image", "text")) | ({"scale"} if "Full" in str(tuned) else set())
