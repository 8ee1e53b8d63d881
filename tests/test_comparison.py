"""The comparison: what is run, in how many processes, at which learning rates."""

import json
from pathlib import Path

import pytest
import torch

from minipeft import comparison
from minipeft.comparison import TUNED_METHODS, TunedMethod, compare, learning_rate_of
from minipeft.methods import AdapterFusion, LoRA, PromptTuning
from minipeft.methods.adapter_fusion import fusions
from minipeft.tasks import task

BLUE = task("reverse+blue")


def test_the_sweep_offers_every_method_the_same_learning_rates():
    tasks, tuned_methods = [task("reverse+red"), task("sort+red")], comparison.TUNED_METHODS[:2]
    found = comparison.sweep(tasks, tuned_methods, steps=1, seeds=(100,), progress=False)
    assert set(found) == {"Full", "LoRA(rank=1)"}
    assert all([float(lr) for lr in by] == list(comparison.LEARNING_RATES) for by in found.values())
    assert [run["task"] for run in found["Full"]["0.01"]] == ["reverse+red", "sort+red"]
    by_lr = {"0.1": [{"loss": 1}, {"loss": 5}], "0.01": [{"loss": 2}, {"loss": 3}]}
    assert comparison.best_learning_rate(by_lr) == 0.01


def test_the_learning_rates_that_are_used_are_those_that_the_stored_sweep_found():
    stored = json.loads((Path(__file__).parents[1] / "benchmarks" / "learning_rates.json").read_text())
    assert stored["steps"] == comparison.STEPS
    assert {m: comparison.best_learning_rate(by) for m, by in stored["results"].items()} == {
        str(c.method): c.lr for c in comparison.TUNED_METHODS
    }


def test_a_run_is_the_same_again():
    losses = [comparison.adapt(TUNED_METHODS[1], BLUE, 3, seed)[1].loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_two_processes_find_what_one_does():
    settings = {
        "tuned_methods": TUNED_METHODS[1:2],
        "steps": 2,
        "seeds": 2,
        "words": (": cabbed =",),
        "progress": False,
    }
    one, two = (compare(BLUE, workers=workers, **settings) for workers in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a.pop("seconds") != b.pop("seconds")
        assert a == b
    assert [row["method"] for row in one] == ["LoRA(rank=1)"]
    assert all(len(row["accuracy"]) == len(row["answers"]) == 2 for row in one)


def test_an_error_in_another_process_comes_here():
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        compare(BLUE, [TunedMethod(TUNED_METHODS[0].method, 1e30)], steps=3, seeds=2, workers=2, progress=False)


def test_with_few_examples_training_accuracy_is_reported_beside_the_accuracy_on_unseen_ones():
    tuned_methods = [TunedMethod(LoRA(rank=8), 3e-2)]
    (row,) = compare(BLUE, tuned_methods, steps=40, seeds=2, examples=3, progress=False)
    assert row["training_accuracy"] == [1, 1]
    assert max(row["accuracy"]) < 0.2


def test_a_sweep_makes_only_the_runs_that_are_missing(monkeypatch):
    made = []

    def run(c, goal, steps, seed, examples):
        made.append((c.lr, seed))
        return {"task": str(goal), "seed": seed, "accuracy": 0.5, "loss": c.lr}

    monkeypatch.setattr(comparison, "try_learning_rate", run)
    settings = {"tuned_methods": TUNED_METHODS[:1], "steps": 1, "progress": False}
    found = comparison.sweep([BLUE], learning_rates=(0.1, 0.01), seeds=(7,), **settings)
    made.clear()
    again = comparison.sweep([BLUE], learning_rates=(0.1, 0.01, 0.2), seeds=(7, 8), found=found, **settings)
    assert made == [(0.1, 8), (0.01, 8), (0.2, 7), (0.2, 8)]
    assert again is found
    assert [[run["seed"] for run in runs] for runs in found["Full"].values()] == [[7, 8]] * 3


def test_a_configuration_that_took_no_part_gets_the_learning_rate_of_its_method():
    assert learning_rate_of(LoRA(rank=1)) == 1e-2
    assert learning_rate_of(PromptTuning(length=9)) == learning_rate_of(PromptTuning(length=4)) == 3e-2


def test_a_fusion_gets_adapters_that_were_trained_on_its_sources():
    tuned = TunedMethod(AdapterFusion(adapters=2, size=4), 1e-2, sources=("reverse+plain", "copy+blue"))
    model, _ = comparison.adapt(tuned, BLUE, 2, seed=0)
    for n, source in enumerate(tuned.sources):
        alone = comparison.adapter(4, source, 2, 0)
        assert alone is comparison.adapter(4, source, 2, 0), "trained once for all the runs of a process"
        for path, fusion in fusions(model).items():
            assert torch.equal(fusion.U[n], alone.tensors[f"{path}.adapter.U.weight"])
    assert not torch.equal(fusion.U[0], fusion.U[1])


def test_what_cannot_be_compared_is_refused_before_the_work():
    with pytest.raises(TypeError, match=r"compare takes a task, got the text 'reverse\+blue': write task"):
        compare("reverse+blue")
    with pytest.raises(TypeError, match="sweep takes a task, got the text"):
        comparison.sweep([BLUE, "reverse+violet"])
    for settings in ({"seeds": 0}, {"steps": 2.5}):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            compare(BLUE, TUNED_METHODS[:1], progress=False, **settings)
