"""The world of languages: tasks that share something new, of which one has few examples."""

import pytest
import torch

from minipeft.attach import attachments, detach, trainable
from minipeft.bases import base
from minipeft.classroom.beside import beside
from minipeft.deltas import fingerprint
from minipeft.methods import LoRA
from minipeft.mixing import MultiTask
from minipeft.tasks import IGNORE, Together, decode, task
from minipeft.training import Recipe, evaluate, fit
from minipeft.worlds.languages import (
    HELPERS_WITHOUT,
    NEW_OPERATION,
    NEW_TABLE,
    PRIVATE,
    SHARED,
    Worded,
    learn,
    mixed,
    private_alone,
)


@pytest.mark.parametrize(("names", "new"), [(NEW_OPERATION, "riffle"), (NEW_TABLE, "violet")])
def test_a_family_shares_one_new_part_and_differs_in_known_ones(names, new):
    parts = [name.split("+") for name in names]
    assert all(new in pair for pair in parts)
    assert len({part for pair in parts for part in pair}) == len(names) + 1
    assert all(task(name).kind.startswith("new") for name in names)


def test_helpers_without_the_new_part_are_known_and_have_the_same_first_task():
    assert HELPERS_WITHOUT[0] == NEW_OPERATION[0]
    assert {task(name).kind for name in HELPERS_WITHOUT[1:]} == {"known"}


def test_a_mixed_batch_has_few_examples_of_the_first_task_and_new_ones_of_the_others():
    goal, generator = mixed(NEW_OPERATION, 8, seed=3), torch.Generator().manual_seed(0)
    batches = [goal.batch(40, generator) for _ in range(2)]
    first, others = [{name: set() for name in NEW_OPERATION} for _ in range(2)]
    for batch in batches:
        for row, name in zip(batch.tokens, batch.beside["names"], strict=True):
            others[name].add(decode(row))
            first[name] |= {decode(row)} if name == NEW_OPERATION[0] else set()
    assert len(first[NEW_OPERATION[0]]) == 8
    assert all(len(others[name]) == 16 for name in NEW_OPERATION[1:])


@pytest.mark.parametrize("private", PRIVATE)
def test_learning_trains_one_shared_update_and_one_private_part_for_each_task(private):
    model = base()
    before = fingerprint(model)
    shared, several = learn(model, NEW_OPERATION, PRIVATE[private], 8, 1e-2, recipe=Recipe(steps=3, batch_size=10))
    assert list(several.views) == list(NEW_OPERATION)
    assert fingerprint(model) == before
    common = {id(p) for p in trainable(shared).values()}
    own = [{id(p) for p in trainable(view).values()} - common for view in several.views.values()]
    assert all(own)
    assert len(set.union(*own)) == sum(map(len, own)), "no private part belongs to two tasks"
    assert all(detach(view, 1) is shared for view in several.views.values())
    assert isinstance(attachments(shared)[0].method, LoRA)
    assert any(layer.B.any() for layer in attachments(shared)[0].layers.values()), "the shared update has learned"


def as_in_the_lesson(attached):
    """What a reader of lesson 21 may write; `attached` makes the view with the shared update, and all views."""

    def learn(model, names, private, examples, lr, seed, recipe):
        torch.manual_seed(seed)
        shared, views = attached(model, names, private)
        several = MultiTask(views)
        goal = mixed(names, examples, seed)
        fit(several, goal, lr=lr, seed=seed, device="cpu", progress=False, **recipe.settings())
        return shared, several

    return learn


def right(model, names, private):
    shared = SHARED.attach(model)
    return shared, {name: private.attach(shared, together=True) for name in names}


def frozen(model, names, private):
    shared = SHARED.attach(model)
    return shared, {name: private.attach(shared) for name in names}


def one_for_each(model, names, private):
    views = {name: private.attach(SHARED.attach(model), together=True) for name in names}
    return detach(views[names[0]], 1), views


def not_shared(model, names, private):
    return SHARED.attach(model), {name: private.attach(model) for name in names}


def untrained(model, names, private, examples, lr, seed, recipe):
    torch.manual_seed(seed)
    shared, views = right(model, names, private)
    return shared, MultiTask(views)


def in_turn(model, names, private, examples, lr, seed, recipe):
    shared, several = untrained(model, names, private, examples, lr, seed, recipe)
    for name, view in several.views.items():
        fit(view, task(name), lr=lr, seed=seed, device="cpu", progress=False, **recipe.settings())
    return shared, several


@pytest.mark.parametrize("private", PRIVATE)
def test_what_a_reader_writes_is_taken_only_if_it_trains_the_same_together(private, capsys):
    everyone = Together({name: task(name) for name in NEW_OPERATION})
    measures = {
        "trained": lambda made: sum(p.numel() for p in trainable(made[1]).values()),
        "loss": lambda made: evaluate(made[1], everyone, 50).loss,
    }
    cases = {private: (base(), NEW_OPERATION, PRIVATE[private], 8, 3e-2, 0, Recipe(steps=2, batch_size=10))}
    mine = as_in_the_lesson(right)
    assert beside(mine, learn, cases, measures) is mine
    assert f"yours {9216 + 5 * (256 if private == 'prompt' else 512):>8,}" in capsys.readouterr().out
    for wrong in (*map(as_in_the_lesson, (frozen, one_for_each, not_shared)), untrained, in_turn):
        assert beside(wrong, learn, cases, measures) is learn
        assert "our learn, until yours is right" in capsys.readouterr().out


def test_a_seed_decides_the_start_and_the_data():
    def learned(seed):
        recipe = Recipe(steps=2, batch_size=10)
        shared, _ = learn(base(), NEW_OPERATION, PRIVATE["LoRA"], 2, 1e-2, seed, recipe)
        return torch.cat([p.detach().flatten() for p in trainable(shared).values()])

    assert torch.equal(learned(1), learned(1))
    assert not torch.equal(learned(1), learned(2))


@pytest.mark.parametrize("private", PRIVATE)
def test_a_private_part_alone_has_what_it_learned_and_nothing_of_the_shared_update(private):
    model, recipe = base(), Recipe(steps=3, batch_size=10)
    shared, several = learn(model, NEW_OPERATION, PRIVATE[private], 8, 1e-1, recipe=recipe)
    tokens = task("copy+plain").batch(3, torch.Generator().manual_seed(0)).tokens
    view = several.views["riffle+red"]
    alone = private_alone(view)
    assert detach(alone) is model
    assert [str(entry.method) for entry in attachments(alone)] == [str(PRIVATE[private])]
    assert (alone(tokens) - model(tokens)).abs().max() > 1e-4, "it has learned"
    with torch.no_grad():
        for p in trainable(shared).values():
            p.zero_()  # B A = 0: now the view is the bare model and its private part
    assert torch.allclose(alone(tokens), view(tokens), atol=1e-5)
    learned = {name: p.clone() for name, p in trainable(alone).items()}
    with torch.no_grad():
        for p in trainable(view).values():
            p += 1
    assert all(torch.equal(p, learned[name]) for name, p in trainable(alone).items()), "its numbers are its own"


def test_words_stand_before_the_examples_of_a_task_and_change_nothing_else():
    plain, told = task("riffle+blue"), Worded(task("riffle+blue"), "copy blue")
    one, other = (goal.batch(5, torch.Generator().manual_seed(4)) for goal in (plain, told))
    assert torch.equal(other.tokens[:, 2:], one.tokens)
    assert {decode(row[:2]) for row in other.tokens} == {"copy blue"}
    assert torch.equal(other.targets[:, 2:], one.targets)
    assert (other.targets[:, :2] == IGNORE).all()
    assert str(told) == "riffle+blue, told 'copy blue'"


def test_words_that_there_are_not_and_what_is_no_task_are_told():
    with pytest.raises(ValueError, match="riffle"):
        Worded(task("riffle+blue"), "riffle")
    with pytest.raises(TypeError, match="Worded takes a task"):
        Worded("riffle+blue", "blue")
