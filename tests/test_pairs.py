"""The toy world in pairs of source and answer, and what an encoder-decoder does with them."""

import copy
import pickle
import sys
from dataclasses import replace

import pytest
import torch

from minipeft.lab import WORLDS, trial, world
from minipeft.methods import PrefixTuning
from minipeft.models.encoder_decoder import EncoderDecoder
from minipeft.tasks import LENGTH, VOCABULARY, Few, Mixture, Task, answer, decode, task
from minipeft.training import Recipe, evaluate, fit
from minipeft.worlds.pairs import CONFIG, RECIPE, Pairs, Told, pretraining, reading, scores

REVERSED = task("reverse+violet")


def drawn(goal, size=4, seed=3):
    return goal.batch(size, torch.Generator().manual_seed(seed))


def read(batch):
    """[(source, what the decoder is given, what it is asked for)] as texts."""
    columns = batch.tokens, batch.beside["answers"], batch.targets
    return [tuple(decode(row) for row in rows) for rows in zip(*columns, strict=True)]


@pytest.mark.parametrize("goal", [REVERSED, Task("sort", "red", True), Mixture(), Told("reverse", "violet")], ids=repr)
@pytest.mark.parametrize("letters", [LENGTH, 3, 1])
def test_a_pair_is_an_example_cut_in_two(goal, letters):
    for row, (source, given, asked) in zip(drawn(goal).tokens, read(drawn(Pairs(goal, letters))), strict=True):
        before, _, letters_of_it = decode(row).partition(" = ")
        assert source == before
        assert given == f"= {letters_of_it[:letters]}"
        assert asked == f"{letters_of_it[:letters]} ."


def test_what_is_told_is_the_operation_alone():
    goal = Told("reverse", "violet")
    assert goal.prompt("cabbed") == "reverse : cabbed ="
    for (source, _, asked), untold in zip(read(drawn(Pairs(goal))), read(drawn(Pairs(REVERSED))), strict=True):
        assert source == f"reverse {untold[0]}"
        assert asked == untold[2]
    for wrong in ({"operation": "riffle"}, {"instructed": True}):
        with pytest.raises(ValueError, match="the operation must have a word, and the table is never told"):
            Told(**{"operation": "reverse", "table": "blue"} | wrong)


def test_pairs_of_few_examples_are_finite_and_others_are_not():
    few = Pairs(Few(REVERSED, 5, seed=1))
    every = read(few.every())
    assert len(set(every)) == 5
    assert sorted(read(drawn(few, 10))) == sorted(2 * every)
    assert not hasattr(Pairs(REVERSED), "every")
    assert not hasattr(Pairs(Mixture()), "every")
    for twin in (copy.deepcopy(few), pickle.loads(pickle.dumps(few))):
        assert twin == few
        assert read(twin.every()) == every


def test_what_are_no_pairs_is_told_and_their_names_tell_them_apart():
    with pytest.raises(TypeError, match=r"Pairs takes a task.* write task\('reverse\+blue'\)"):
        Pairs("reverse+blue")
    with pytest.raises(ValueError, match="letters must be a whole number of at least 1 and below 7, got 7"):
        Pairs(REVERSED, 7)
    assert str(Pairs(REVERSED)) == "reverse+violet"
    assert str(Pairs(Mixture(), 3)) == "pretraining mixture, 3 letters"
    assert len({repr(Pairs(goal)) for goal in (REVERSED, Told("reverse", "violet"), Few(REVERSED, 5))}) == 3


class Knowing(torch.nn.Module):
    """Answers any source with the reverse of its word under violet, whatever the instruction; it looks at no answer."""

    def forward(self, tokens, answers):
        right = right_answers(tokens)
        return torch.nn.functional.one_hot(right[:, : answers.shape[1]], len(VOCABULARY)).float()


def right_answers(source):
    """The letters and the full stop that REVERSED asks for, as tokens (B, 7)."""
    letters = REVERSED.answer(source[:, -LENGTH:] - 4) + 4
    return torch.cat([letters, torch.full((len(source), 1), 3)], dim=1)


def test_exact_match_counts_the_letters_and_the_full_stop():
    assert evaluate(Knowing(), Pairs(REVERSED), 60).accuracy == 1
    assert evaluate(Knowing(), Pairs(Told("reverse", "violet")), 60).accuracy == 1
    assert evaluate(Knowing(), Pairs(Few(REVERSED, 5))).accuracy == 1
    short = evaluate(Knowing(), Pairs(REVERSED, 3), 60)
    assert (short.accuracy, short.token_accuracy) == (0, 0.75), "it does not stop after three letters"


def test_pretraining_and_adapting_learn_from_pairs():
    torch.manual_seed(0)
    model = EncoderDecoder(CONFIG)
    settings = {"device": "cpu", "progress": False}
    history = fit(model, pretraining, **RECIPE | {"steps": 30, "batch_size": 16}, **settings)
    assert sum(history.loss[-5:]) < 0.8 * sum(history.loss[:5])
    assert set(answer(model, "reverse next : cabbed")) <= set("abcdefghijklmnop")
    view = PrefixTuning(4, places=("encoder", "memory", "decoder")).attach(model)
    history = fit(view, Pairs(Told("reverse", "blue")), lr=0.3, steps=20, batch_size=16, **settings)
    assert sum(history.loss[-5:]) < sum(history.loss[:5])


def test_the_card_tells_of_the_mixture_and_of_the_pairs_that_were_held_out():
    small = EncoderDecoder(replace(CONFIG, dim=8, heads=1, ff=8))
    assert scores(small) == {"pretraining mixture": 0.0, "held-out pairs, instructed": 0.0}


def test_a_trial_trains_on_some_examples_and_is_scored_on_others():
    goal = Pairs(REVERSED, 3)
    assert goal.sets(None, 5) == (goal, goal, goal)
    training, choosing, reported = goal.sets(8, 5)
    assert training == Pairs(Few(REVERSED, 8, 5), 3)
    assert choosing == reported == goal
    assert goal.known() == Pairs(Mixture()) == pretraining


def test_what_the_base_knows_of_a_task_is_told():
    kinds = {
        "new table": Pairs(REVERSED), "held-out pair": Pairs(Told("reverse", "blue")), "new duty": Pairs(REVERSED, 3),
        "several tasks": Pairs(Mixture()),
    }  # fmt: skip
    assert {kind: goal.kind for kind, goal in kinds.items()} == {kind: kind for kind in kinds}


def test_the_world_of_pairs_can_be_compared_in():
    pairs = world("letters-pairs")
    assert pairs is WORLDS["letters-pairs"]
    assert pairs.goal(pairs.first) == Pairs(task("reverse+blue"))
    places = {c.method.places for c in pairs.methods if isinstance(c.method, PrefixTuning)}
    assert {place for several in places for place in several} == {"encoder", "memory", "decoder"}
    assert len(places) == 4
    model = EncoderDecoder(CONFIG)
    for c in pairs.methods:
        c.method.attach(model)


def test_a_trial_in_the_world_of_pairs(monkeypatch):
    torch.manual_seed(0)
    model = EncoderDecoder(CONFIG)
    monkeypatch.setattr(sys.modules["minipeft.lab.trial"], "shipped", lambda name: model)
    method = PrefixTuning(4, places=("memory",))
    found = trial(method, Pairs(Mixture(), 3), 0.3, 0, Recipe(steps=4), "letters-pairs", examples=8)
    assert found["parameters"] == 2 * 2 * 4 * CONFIG.dim
    assert (found["accuracy"], found["retention"], found["restored"]) == (0, 0, True)


def test_a_reading_tells_what_was_written_and_where_each_word_looked():
    torch.manual_seed(0)
    model = PrefixTuning(2, places=("encoder", "memory")).attach(EncoderDecoder(CONFIG))
    found = reading(model, "reverse next : cabbed")
    assert found.source == ["reverse", "next", ":", *"cabbed"]
    U, T = len(found.answer), len(found.source)
    assert decode(torch.tensor([VOCABULARY.index(word) for word in found.answer])).removesuffix(".").strip() == answer(
        model, "reverse next : cabbed"
    )
    assert [tuple(w.shape) for w in found.encoder] == 2 * [(CONFIG.heads, T, 2 + T)]
    assert [tuple(w.shape) for w in found.cross] == 2 * [(CONFIG.heads, U, 2 + T)]
    for weights in (*found.encoder, *found.cross):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
