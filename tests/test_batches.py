"""Large vocabularies: batches go through in parts of a bounded number of logits, and nothing else changes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from minipeft import batches
from minipeft.attach import trainable
from minipeft.bases import base
from minipeft.batches import LOGITS, asked, parts, vocabulary
from minipeft.lab import WORLDS
from minipeft.lab.trial import sets, started
from minipeft.methods import AdaLoRA, Full, LinearProbe, LoRA
from minipeft.mixing import MultiTask
from minipeft.tasks import IGNORE, Batch, Mixture, Together, task
from minipeft.training import evaluate, fit
from tests.models import VOCAB, Ragged, bits, gap, make

SETTINGS = {"steps": 4, "batch_size": 7, "lr": 1e-2, "device": "cpu", "progress": False}
RAGGED = Ragged((1, 2))  # nothing is asked of the second part of two rows but for the fourth


class Seen:
    """How many rows each pass of a model had."""

    def __init__(self, model):
        self.rows = []
        model.register_forward_pre_hook(lambda model, args: self.rows.append(len(args[0])))


def bounded(monkeypatch, rows):
    """From here on a pass has at most so many rows of seven tokens."""
    monkeypatch.setattr(batches, "LOGITS", rows * 7 * VOCAB + 6 * VOCAB)


@pytest.mark.parametrize("method", [Full(), LoRA(rank=2), AdaLoRA(rank=1, initial_rank=2, interval=1)], ids=str)
@pytest.mark.parametrize("rows", [0, 2, 3])
def test_a_batch_in_parts_trains_as_it_does_at_once(monkeypatch, method, rows):
    def run():
        torch.manual_seed(0)
        view = method.attach(make().double())
        seen = Seen(view)
        history = fit(view, RAGGED, **SETTINGS)
        return history, {name: p.detach() for name, p in trainable(view).items()}, seen.rows

    one, once, (first, *_) = run()
    assert first == 7
    bounded(monkeypatch, rows)
    two, parted, seen = run()
    assert seen[: len(seen) // 4] == {0: [1] * 7, 2: [2, 2, 2, 1], 3: [3, 3, 1]}[rows], "at least a row at a time"
    assert gap(once, parted) < 1e-9
    assert two.loss == pytest.approx(one.loss, rel=1e-12)
    assert two.accuracy == pytest.approx(one.accuracy, abs=1e-6)
    assert two.lr == one.lr


def test_what_each_row_has_beside_its_tokens_goes_with_it(monkeypatch):
    """The names of several tasks' views, in batches and in what `evaluate` asks."""

    def run():
        torch.manual_seed(0)
        model, names = base().double(), ("reverse+blue", "copy+red")
        several = MultiTask({name: LoRA(rank=1).attach(model) for name in names})
        goal = Together({name: task(name) for name in names})
        history = fit(several, goal, **SETTINGS)
        return [*history.loss, evaluate(several, goal, 60).loss]

    once = run()
    monkeypatch.setattr(batches, "LOGITS", 3 * 14 * 60)
    assert run() == pytest.approx(once)


def test_the_score_of_a_batch_in_parts_is_that_of_the_batch(monkeypatch):
    model = make().double()
    seen, once = Seen(model), evaluate(model, RAGGED, 60)
    assert seen.rows == [50, 10]
    bounded(monkeypatch, 2)
    parted = evaluate(model, RAGGED, 60)
    assert set(seen.rows[2:]) == {2}
    assert (parted.accuracy, parted.token_accuracy) == (once.accuracy, once.token_accuracy)
    assert parted.loss == pytest.approx(once.loss, rel=1e-12)


def test_no_more_logits_than_the_bound_are_made_at_once(monkeypatch):
    bounded(monkeypatch, 3)
    made, model = [], make()
    model.register_forward_hook(lambda model, args, logits: made.append(logits.numel()))
    evaluate(model, RAGGED, 60)
    fit(LoRA().attach(model), RAGGED, **SETTINGS | {"steps": 1})
    assert made
    assert max(made) <= batches.LOGITS


@pytest.mark.parametrize("name", WORLDS)
def test_no_world_of_ours_is_ever_parted(name):
    """Its results stay as they were, bit for bit: the textbook loop of test_training.py has no parts either."""
    world = WORLDS[name]
    goal, model = world.goal(world.first), base(name)
    for one in sets(goal, world.examples, 0):
        batch = one.batch(128, torch.Generator().manual_seed(0))
        assert [part is batch for part in parts(batch, vocabulary(started(goal, name)))] == [True]
    assert vocabulary(model) * batch.targets.numel() < LOGITS / 50


def test_the_vocabulary_is_found_in_views_and_in_what_holds_them():
    model = make()
    view = LinearProbe(classes=3).attach(model)
    for one in (model, view, MultiTask({"a": view}), nn.DataParallel(model), nn.Sequential(nn.Identity(), model)):
        assert vocabulary(one) == VOCAB
    assert vocabulary(nn.Linear(2, 3)) == 0, "without one, nothing is parted"
    assert vocabulary(base("characters-conv")) == 0


def test_rows_that_are_asked_about_each_other_stay_together():
    batch = Mixture().batch(4, torch.Generator())
    assert [len(part.tokens) for part in parts(batch, 2**30)] == [1] * 4
    whole = replace(batch, whole=True)
    assert list(parts(whole, 2**30)) == [whole]
    assert list(parts(Batch(batch.tokens[:0], batch.targets[:0]), 60)) == [], "no rows, no pass"


def test_what_is_asked_is_counted():
    assert asked(Batch(torch.zeros(2, 3), torch.tensor([[IGNORE, 1, 0], [IGNORE, IGNORE, IGNORE]]))) == 2


def test_a_loss_that_is_no_number_in_a_later_part_stops_the_run(monkeypatch):
    bounded(monkeypatch, 2)
    view, passes = LoRA().attach(make()), []
    view.register_forward_hook(lambda model, args, logits: passes.append(1) or logits / float(len(passes) != 3))
    before = bits(view)
    with pytest.raises(FloatingPointError, match=r"(nan|inf) at step 0"):
        fit(view, Ragged(()), **SETTINGS)
    assert all(torch.equal(t, before[name]) for name, t in view.state_dict().items())
