"""The ledger: verdicts follow from statements, nothing is run twice, the page tells what is stored."""

import json
import re

import pytest

from claims import costs, data, lab, lora, methods, prompts, tasks  # noqa: F401
from claims.lab import RUNS, Lab, first_step, key_of, train
from claims.ledger import CLAIMS, HOLDS, INVISIBLE, NOT, PART, Finding, beats, findings, several
from claims.page import LESSONS, page
from minipeft import LoRA, task


def square(x, lr, seed):
    return {"validation": (lr - x) ** 2 if lr < 9 else None, "seed": seed, "third": 1 / 3}


@pytest.fixture
def own(tmp_path):
    made = Lab(tmp_path / "runs.jsonl", workers=1, progress=False)
    yield made
    made.close()


class Stored(Lab):
    """The shipped runs, and no others."""

    def submit(self, experiment, job):
        raise AssertionError(f"not stored: {key_of(experiment, job)}; run: python run.py claims")


@pytest.fixture(scope="module")
def shipped():
    store = Stored(progress=False)
    return findings(CLAIMS, store), store


def test_a_result_is_stored_with_its_job_versions_and_time_and_not_run_twice(own):
    jobs = [{"x": 1, "lr": 0.5, "seed": seed} for seed in (0, 1)]
    assert own(square, jobs) == [{"validation": 0.25, "seed": seed, "third": 0.33333} for seed in (0, 1)]
    lines = [json.loads(line) for line in own.path.read_text().splitlines()]
    assert lines[0]["job"] == {"experiment": "square", "x": 1, "lr": 0.5, "seed": 0}
    assert {"seconds", "torch", "python"} <= set(lines[0])
    again = Stored(own.path, progress=False)
    assert again(square, jobs[::-1]) == own(square, jobs[::-1])
    with pytest.raises(AssertionError, match="not stored"):
        again(square, [{"x": 2, "lr": 0.5, "seed": 0}])


def test_what_is_no_longer_asked_for_is_pruned(own):
    own(square, [{"x": 1, "lr": 0.5, "seed": seed} for seed in (0, 1)])
    later = Stored(own.path, progress=False)
    later(square, [{"x": 1, "lr": 0.5, "seed": 1}])
    later.close(prune=True)
    assert [json.loads(line)["job"]["seed"] for line in own.path.read_text().splitlines()] == [1]


def test_the_learning_rate_is_the_one_of_least_validation_loss_and_its_seed_is_not_reported(own):
    finding = Finding(own)
    (first, second) = finding.tuned(square, [{"x": 1}, {"x": 3}], learning_rates=(1, 3, 9), seeds=(0, 1), tuning=(100,))
    assert (first[0], second[0]) == (1, 3)
    assert [run["seed"] for run in first[1]] == [0, 1]
    assert len(finding.keys) == 2 * 3 + 2 * 2
    assert list(finding.at_the_edge.values()) == [True, False]


def test_verdicts():
    def verdict(*decisions):
        finding = Finding(None)
        for decision in decisions:
            finding.state("", decision, "")
        return finding.verdict

    assert verdict(True, True) == HOLDS
    assert verdict(True, False) == verdict(True, None) == PART
    assert verdict(False, None) == INVISIBLE
    assert verdict(False, False) == NOT


def test_beats_needs_every_seed():
    assert beats([0.5, 0.6], [0.3, 0.4]) is True
    assert beats([0.3, 0.4], [0.5, 0.6]) is False
    assert beats([0.3, 0.5], [0.4, 0.6]) is None
    assert beats([1.0, 1.0], [1.0, 1.0]) is None


def test_a_spread_is_told_with_its_range():
    assert several([0.5, 1.0, 0.9]) == "0.80 (0.50–1.00)"
    assert several([1.0, 1.0]) == "1.00"


def test_the_first_step_of_an_accuracy_of_nine_tenths():
    assert first_step([0.0] * 5 + [1.0] * 20) == 14
    assert first_step([0.5] * 30) is None


def test_a_run_of_training_tells_everything():
    found = train(LoRA(rank=2), task("reverse+blue"), lr=1e-2, seed=0, steps=3, batch=8, examples=8)
    assert found["parameters"] == 1024
    assert found["restored"] is True
    assert set(found) >= {"accuracy", "validation", "retention", "training_accuracy", "reached"}


def test_a_run_that_diverges_is_a_result():
    assert train(LoRA(rank=2), task("reverse+blue"), lr=1e30, seed=0, steps=3, batch=8)["validation"] is None


def test_every_claim_has_its_place_and_a_name_of_its_own():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS) >= 24
    for claim in CLAIMS:
        assert claim.source
        assert claim.experiment
        assert list(LESSONS.glob(f"{claim.lesson:02}_*.py")), claim.name


def test_the_page_is_what_the_stored_runs_say(shipped):
    found, store = shipped
    assert (LESSONS / "claims.md").read_text(encoding="utf-8") == page(found, store), "run: python run.py claims"


def test_every_claim_rests_on_three_seeds_and_has_numbers(shipped):
    for claim, finding in shipped[0].items():
        jobs = [json.loads(key) for key in finding.keys]
        seeds = {job.get("seed", job.get("base_name")) for job in jobs} - {100}
        assert len(seeds) >= 3, claim.name
        assert finding.statements, claim.name
        assert re.search(r"\d", finding.measured), claim.name


def test_the_whole_ledger_takes_less_than_an_hour_on_two_cores(shipped):
    found, store = shipped
    assert store.seconds(set().union(*(f.keys for f in found.values()))) < 2 * 3600


def test_nothing_is_stored_twice_or_for_nothing(shipped):
    found, _ = shipped
    stored = [json.dumps(json.loads(line)["job"]) for line in RUNS.read_text().splitlines()]
    assert sorted(stored) == sorted(set().union(*(f.keys for f in found.values())))
