"""The lab: what a run is stored under, who runs it and how often, and how a learning rate is chosen."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from claims.demo import tunings
from claims.ledger import SETS
from minipeft import deltas
from minipeft.attach import detach, trainable
from minipeft.bases import base
from minipeft.lab import SEEDS, TUNED_METHODS, Lab, Store, TunedMethod, adapt, as_csv, compare, stored, trial, tune
from minipeft.lab import store as stores
from minipeft.lab.comparison import SOURCES, learning_rate_of, tuned_method
from minipeft.lab.store import MADE_WITH, key_of
from minipeft.lab.trial import SOURCE_LR, adapter, first_step, thinned
from minipeft.lab.tuning import COARSE, MOVES, rate
from minipeft.methods import AdapterFusion, Full, LoRA, Pfeiffer, PromptTuning
from minipeft.methods.adapter_fusion import fusions
from minipeft.tasks import Few, Mixture, task
from minipeft.training import RECIPE, TEST, VALIDATION, evaluate, loss_of, schedule
from tests.experiments import counted, impossible, jobs_for, made, stored_so_far

ROOT = Path(__file__).parents[1]
BLUE = task("reverse+blue")
SHORT = replace(RECIPE, steps=4, batch_size=8)
JOB = {"method": LoRA(rank=2), "goal": BLUE, "lr": 1e-2, "seed": 0}


@pytest.fixture
def own(tmp_path):
    with Lab(tmp_path / "runs.jsonl", workers=1, progress=False) as lab:
        yield lab


@pytest.fixture(scope="module")
def pair():
    """Two processes; nothing is kept on the disk."""
    with Lab(workers=2, progress=False) as lab:
        yield lab


# -- the store ---------------------------------------------------------------------------------------------------------


def test_a_key_holds_every_argument_with_its_default_the_recipe_the_versions_and_the_machine(own):
    key = json.loads(own.key(trial, JOB))
    assert key == MADE_WITH | {
        "experiment": "trial",
        "method": repr(LoRA(rank=2)),
        "goal": repr(BLUE),
        "lr": 0.01,
        "seed": 0,
        "recipe": asdict(RECIPE) | {"betas": [0.9, 0.98]},
        "base": "letters-d64",
        "examples": None,
        "sources": [],
        "source_lr": SOURCE_LR,
        "look": None,
        "watch": None,
        "every": 25,
    }
    assert set(MADE_WITH) == {"torch", "python", "machine"}
    assert own.key(trial, JOB | {"recipe": RECIPE, "every": 25}) == own.key(trial, JOB)
    assert json.loads(own.key(impossible, {"number": 1}))["recipe"] == key["recipe"], (
        "also of an experiment without one"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"method": LoRA(rank=2, alpha=3)},
        {"goal": task("reverse+violet")},
        {"lr": 1e-3},
        {"seed": 1},
        {"base": "letters-d32"},
        {"examples": 8},
        {"sources": ("copy+blue",)},
        {"source_lr": 3e-3},
        {"look": impossible},
        {"watch": impossible},
        {"every": 5},
        *({"recipe": replace(RECIPE, **{name: value})} for name, value in {
            "steps": 3, "batch_size": 3, "warmup": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.1, "clip": 2.0
        }.items()),
    ],
    ids=lambda change: str(sorted(change)[0]),
)  # fmt: skip
def test_whatever_changes_another_run_is_looked_for(own, change):
    assert own.key(trial, JOB | change) != own.key(trial, JOB)


def test_a_changed_default_never_meets_an_old_run(monkeypatch):
    def with_default(value):
        def experiment(lr, size=value):
            return {}

        return experiment

    old, new = (key_of(with_default(value), {"lr": 1}, MADE_WITH) for value in (8, 16))
    assert old != new
    assert key_of(with_default(16), {"lr": 1, "size": 8}, MADE_WITH) == old
    before = key_of(impossible, {"number": 1}, MADE_WITH)
    monkeypatch.setattr(stores, "RECIPE", replace(RECIPE, steps=7))
    assert key_of(impossible, {"number": 1}, MADE_WITH) != before


def test_a_result_is_stored_and_not_run_twice(own, tmp_path):
    first = own(counted, jobs_for(tmp_path, 1, 2))
    assert [run["number"] for run in first] == [1, 2]
    assert first[0]["third"] == 0.33333, "five digits, the same now as when it is read again"
    lines = [json.loads(line) for line in own.store.path.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"key", "result", "seconds"}] * 2
    assert [line["key"]["number"] for line in lines] == [1, 2]
    with Lab(own.store.path, workers=1, progress=False) as later:
        assert later(counted, jobs_for(tmp_path, 2, 1, 3)) == [*first[::-1], own_result(later, tmp_path, 3)]
    assert made(tmp_path) == ["1", "2", "3"]
    with Lab(own.store.path, workers=1, progress=False, again=True) as anew:
        anew(counted, jobs_for(tmp_path, 1))
        anew(counted, jobs_for(tmp_path, 1))
    assert made(tmp_path) == ["1", "2", "3", "1"]


def own_result(lab, folder, number):
    return lab.store[lab.key(counted, jobs_for(folder, number)[0])]


def test_a_result_is_stored_at_once(own):
    jobs = [{"path": str(own.store.path), "number": number} for number in range(3)]
    assert [run["lines"] for run in own(stored_so_far, jobs)] == [0, 1, 2]


def test_numbers_that_are_not_finite_and_what_stands_inside_are_stored(tmp_path):
    store = Store(tmp_path / "runs.jsonl")
    store.add('{"experiment": "x"}', {"a": math.nan, "b": [1 / 3, {"c": math.inf}], 2: "text", "yes": True}, 1.23)
    assert store['{"experiment": "x"}'] == {"a": None, "b": [0.33333, {"c": None}], "2": "text", "yes": True}
    assert Store(tmp_path / "runs.jsonl").lines == store.lines
    assert store.seconds(['{"experiment": "x"}']) == 1.2


@pytest.mark.parametrize("rest", [0, 1, 20, -2, -1])
def test_a_line_that_was_cut_short_is_left_out_made_again_and_not_glued_to_the_next(own, tmp_path, rest):
    own(counted, jobs_for(tmp_path, 1, 2))
    text = own.store.path.read_text()
    last = text.splitlines()[-1]
    own.store.path.write_text(text.splitlines()[0] + "\n" + (last + "\n")[:rest])
    whole = rest == -1  # only the end of the line is missing
    with Lab(own.store.path, workers=1, progress=False) as lab:
        assert len(lab.store.lines) == 1 + whole
        lab(counted, jobs_for(tmp_path, 1, 2, 3))
    assert made(tmp_path) == ["1", "2", "3"] if whole else ["1", "2", "2", "3"]
    found = Store(own.store.path)
    assert [line["result"]["number"] for line in found.lines.values()] == [1, 2, 3]


def test_what_is_no_longer_asked_for_is_pruned(own, tmp_path):
    own(counted, jobs_for(tmp_path, 3, 1, 2))
    with Lab(own.store.path, only_stored=True, progress=False) as later:
        later(counted, jobs_for(tmp_path, 2, 1))
        later.store.prune(later.asked)
    assert [json.loads(line)["key"]["number"] for line in own.store.path.read_text().splitlines()] == [1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"made", "runs.jsonl"}


def test_stored_runs_are_read_wherever_they_were_made_and_nothing_else_is_run(tmp_path, monkeypatch):
    path = tmp_path / "runs.jsonl"
    elsewhere = MADE_WITH | {"torch": "1.0", "machine": "abacus"}
    Store(path).add(key_of(impossible, {"number": 5}, elsewhere), {"number": 5}, 1)
    assert Lab(path, progress=False).key(impossible, {"number": 5}) not in Store(path)
    Store(path).add(key_of(impossible, {"number": 7}, elsewhere | {"python": "2.7"}), {"number": 7}, 1)
    with stored(path) as lab:
        assert lab(impossible, [{"number": 5}, {"number": 7}]) == [{"number": 5}, {"number": 7}]
        assert {line["key"]["torch"] for line in lab.store.lines.values()} == {"1.0"}
        with pytest.raises(LookupError, match=r"runs\.jsonl does not hold this run: .*impossible"):
            lab(impossible, [{"number": 6}])


class FullFor(Store):
    """A store on a disk that is full for a number of times."""

    def __init__(self, path, times):
        super().__init__(path)
        self.times = times

    def write(self, line):
        if self.times > 0:
            self.times -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(line)


def test_a_disk_that_is_full_for_a_moment_costs_nothing(tmp_path, caplog):
    with Lab(FullFor(tmp_path / "runs.jsonl", 1), workers=1, progress=False) as lab:
        assert len(lab(counted, jobs_for(tmp_path, 1, 2, 3))) == 3
    assert len(Store(tmp_path / "runs.jsonl").lines) == 3
    assert made(tmp_path) == ["1", "2", "3"]
    assert not caplog.records


def test_a_full_disk_is_told_to_who_asked_and_what_was_stored_is_safe(own, tmp_path, caplog):
    own(counted, jobs_for(tmp_path, 1))
    full = Lab(FullFor(own.store.path, 99), workers=1, progress=False)
    with full, pytest.raises(OSError, match=r"No space left on device: a run was not added to .*runs\.jsonl"):
        full(counted, jobs_for(tmp_path, 2))
    assert [line["result"]["number"] for line in Store(own.store.path).lines.values()] == [1]
    assert not caplog.records


# -- the pool ----------------------------------------------------------------------------------------------------------


def test_threads_that_ask_for_the_same_run_get_the_same_run(tmp_path):
    with Lab(executor=ThreadPoolExecutor(4), progress=False) as lab, ThreadPoolExecutor(4) as threads:
        jobs = jobs_for(tmp_path, 1, 2, wait=0.2)
        all_runs = list(threads.map(lambda _: lab(counted, jobs), range(4)))
    assert sorted(made(tmp_path)) == ["1", "2"]
    assert all(runs == all_runs[0] for runs in all_runs)


def test_a_job_that_is_asked_for_twice_is_run_once_and_told_twice(own, tmp_path):
    told = []
    found = own(counted, jobs_for(tmp_path, 1, 1), lambda job, result: told.append(result["number"]))
    assert found[0] == found[1]
    assert told == [1, 1]
    assert made(tmp_path) == ["1"]


def test_what_is_done_is_told_in_whichever_order_it_comes(tmp_path):
    told, jobs = [], [*jobs_for(tmp_path, 1, wait=0.5), *jobs_for(tmp_path, 2)]
    with Lab(executor=ThreadPoolExecutor(2), progress=False) as lab:
        found = lab(counted, jobs, lambda job, result: told.append((job is jobs[result["number"] - 1], job["number"])))
    assert told == [(True, 2), (True, 1)]
    assert [run["number"] for run in found] == [1, 2]


def test_two_processes_find_what_one_does(pair, own):
    methods = [TunedMethod(LoRA(rank=1), 1e-2), TunedMethod(PromptTuning(length=2), 1e-2)]
    one, two = (compare(BLUE, methods, 2, SHORT, lab=lab) for lab in (own, pair))
    assert one == two
    assert [row["method"] for row in one] == ["LoRA(rank=1)", "PromptTuning(length=2)"]
    assert all(len(row["accuracy"]) == len(row["answers"]) == 2 for row in one)


def test_workers_are_other_processes_with_one_thread(pair, tmp_path):
    found = pair(counted, jobs_for(tmp_path, *range(4), wait=0.3))
    assert os.getpid() not in {run["pid"] for run in found}
    assert len({run["pid"] for run in found}) <= 2


def test_an_error_in_another_process_comes_here(pair):
    with pytest.raises(FloatingPointError, match="what happened in the worker"):
        pair(impossible, [{"number": 0}, {"number": 1}])
    assert pair(impossible, [{"number": 2}]) == [{"number": 2}]


def test_any_executor_will_do_and_is_left_running(tmp_path):
    with ThreadPoolExecutor(2) as executor:
        with Lab(tmp_path / "runs.jsonl", executor=executor, progress=False) as lab:
            assert [run["number"] for run in lab(counted, jobs_for(tmp_path, 1, 2))] == [1, 2]
        assert executor.submit(len, "still there").result() == 11
    assert len(Store(tmp_path / "runs.jsonl").lines) == 2


def test_an_experiment_stands_at_the_top_of_a_module(own):
    def inner(number):
        return {}

    for experiment in (inner, lambda number: {}):
        with pytest.raises(TypeError, match="an experiment is a function at the top of a module, got"):
            own(experiment, [{"number": 1}])


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_when_the_parent_is_stopped_no_worker_stays_and_what_was_finished_is_stored(tmp_path, blow):
    code = f"""
from minipeft.lab import Lab
from tests.experiments import endless
with Lab({str(tmp_path / "runs.jsonl")!r}, workers=2, progress=False) as lab:
    lab(endless, [{{"folder": {str(tmp_path)!r}, "number": number}} for number in range(20)])
"""
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # what runs beside a shell is deaf
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, **heard)
    try:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2 and Store(tmp_path / "runs.jsonl").lines, 100)
        workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert all(alive(pid) for pid in workers)
        parent.send_signal(blow)
        said = parent.communicate(timeout=20)[1]
    finally:
        parent.kill()
    until(lambda: not any(alive(pid) for pid in workers), 10)
    assert [line["result"]["number"] for line in Store(tmp_path / "runs.jsonl").lines.values()] == [0]
    if blow == signal.SIGINT:
        assert said.count("Traceback") == 1, said  # that of Python itself, and nothing from a worker
        assert "KeyboardInterrupt" in said.splitlines()[-1]


def until(what, seconds):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# -- tuning ------------------------------------------------------------------------------------------------------------


def valley(bottom, lr, seed, steep=1.0, tilt=0.0):
    """Losses whose logarithm is a valley; `tilt` moves what the first tuning seed sees of it."""
    k = 2 * math.log10(lr)
    return {"validation": 1e-2 * math.exp(steep * abs(k - bottom - tilt * (seed == SEEDS[0])))}


def downhill(direction, lr, seed):
    return {"validation": math.exp(-0.3 * direction * 2 * math.log10(lr))}


def plateau(left, right, lr, seed):
    k = 2 * math.log10(lr)
    return {"validation": 1e-2 * math.exp(max(0, left - 0.1 - k, k - right - 0.1))}


def diverging(bottom, lr, seed):
    k = 2 * math.log10(lr)
    return valley(bottom, lr, seed) if k < bottom + 0.5 else {"validation": None}


def two_valleys(place, bottom, lr, seed):
    return valley(bottom + place, lr, seed)


class Free:
    """A lab without processes or store, which notes what it is asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, experiment, jobs):
        self.asked += jobs
        return [experiment(**job) for job in jobs]


def test_learning_rates_lie_half_a_decade_apart():
    assert [rate(k) for k in range(-8, 2)] == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1, 3]


@pytest.mark.parametrize("bottom", range(-9, 2))
def test_the_bottom_of_a_valley_is_found(bottom):
    (found,) = tune(Free(), valley, [{"bottom": bottom}])
    assert found.lr == rate(bottom)
    assert found.interior
    assert min(found.scores, key=found.scores.get) == found.lr
    assert min(found.scores) < found.lr < max(found.scores)


@pytest.mark.parametrize("tilt", [-5, -3, 3, 5])
def test_the_window_moves_when_the_best_lies_at_its_edge(tilt):
    """What one seed sees is misleading: the search begins at the wrong place, and walks."""
    lab = Free()
    (found,) = tune(lab, valley, [{"bottom": -4, "tilt": tilt}])
    assert found.interior
    assert abs(2 * math.log10(found.lr) + 4) < abs(tilt)
    assert len(found.scores) > 3
    assert found.runs == len(lab.asked) > 16


@pytest.mark.parametrize("direction", [1, -1])
def test_a_search_that_never_turns_says_so(direction):
    (found,) = tune(Free(), downhill, [{"direction": direction}])
    assert not found.interior
    assert found.lr == (max if direction > 0 else min)(found.scores)
    assert len(found.scores) == 3 + MOVES


@pytest.mark.parametrize(("left", "right"), [(-5, -3), (-7, -5), (-6, -2), (-4, -4)])
def test_of_a_plateau_the_middle_of_what_was_tried_is_taken(left, right):
    (found,) = tune(Free(), plateau, [{"left": left, "right": right}])
    flat = [lr for lr, score in found.scores.items() if score == min(found.scores.values())]
    assert found.lr == flat[len(flat) // 2]
    assert len(flat) == min(3, 1 + right - left)
    assert found.interior


def slow_and_soon(soon, lr, seed):
    k = 2 * math.log10(lr)
    return plateau(-5, -3, lr, seed) | {"area": 1 + abs(k - soon)}


@pytest.mark.parametrize("soon", [-5, -4, -3])
def test_of_a_plateau_the_one_that_learns_soonest_is_taken(soon):
    (found,) = tune(Free(), slow_and_soon, [{"soon": soon}])
    assert found.lr == rate(soon)
    assert found.interior


def test_what_learns_soonest_but_ends_badly_is_not_taken():
    (found,) = tune(Free(), slow_and_soon, [{"soon": 3}])
    assert found.lr == rate(-3)


def test_where_speed_is_compared_the_learning_rate_is_tuned_for_speed():
    (found,) = tune(Free(), slow_and_soon, [{"soon": 0}], by="area")
    assert (found.lr, found.by, found.interior) == (1, "area", True)
    assert found.scores[1] == round(math.log(1.001), 3)


def arriving(soon, lr, seed):
    """Arrives soonest at a learning rate at which the mean loss while training is not the least, far off never."""
    off = abs(round(2 * math.log10(lr)) - soon)
    return {"validation": 1.0, "area": lr, "reached": round(100 * 1.5**off) if off < 3 else None}


def test_where_steps_are_compared_the_learning_rate_is_tuned_for_steps():
    (found,) = tune(Free(), arriving, [{"soon": -3}], by="reached")
    assert (found.lr, found.by, found.interior) == (rate(-3), "reached", True)
    assert found.scores[rate(-3)] == round(math.log(100), 3)
    assert found.scores[rate(-2)] == round(math.log(150), 3), "and not capped as a loss is"
    (far,) = tune(Free(), arriving, [{"soon": 9}], by="reached")
    assert set(far.scores.values()) == {round(math.log(1000), 3)}


def test_a_run_that_diverged_counts_as_a_bad_one():
    (found,) = tune(Free(), diverging, [{"bottom": -4}])
    assert found.lr == rate(-4)
    assert found.interior
    assert found.scores[rate(-3)] == round(math.log(100.001), 3)


def test_tuning_seeds_are_its_own():
    lab = Free()
    tune(lab, valley, [{"bottom": -4}, {"bottom": -9}, {"bottom": 3}])
    assert {job["seed"] for job in lab.asked} <= set(SEEDS)
    assert not set(SEEDS) & set().union(*SETS.values())
    assert not set(SEEDS) & set(range(100)), "`compare` and `train` count from 0"
    assert VALIDATION != TEST


def test_where_nothing_has_to_move_every_job_is_tried_equally_often():
    lab, jobs = Free(), [{"bottom": bottom, "steep": steep} for bottom in COARSE for steep in (0.5, 2)]
    found = tune(lab, valley, jobs)
    assert {tuning.runs for tuning in found} == {16}
    assert len(lab.asked) == 16 * len(jobs)
    for job in jobs:
        tried = [(each["lr"], each["seed"]) for each in lab.asked if job.items() <= each.items()]
        assert len(set(tried)) == len(tried) == 16
        for k in (-1, 0, 1):
            assert sorted(seed for lr, seed in tried if lr == rate(job["bottom"] + k)) == list(SEEDS)


def test_all_jobs_are_asked_for_at_the_same_time():
    class Rounds(Free):
        def __call__(self, experiment, jobs):
            self.rounds = [*getattr(self, "rounds", []), {job["bottom"] for job in jobs}]
            return super().__call__(experiment, jobs)

    lab = Rounds()
    tune(lab, valley, [{"bottom": -6}, {"bottom": -2}])
    assert lab.rounds[:3] == [{-6, -2}] * 3
    assert not any(lab.rounds[3:])


def test_one_learning_rate_is_chosen_for_several_tasks_together():
    lab = Free()
    (found,) = tune(lab, two_valleys, [{"bottom": -4}], over=[{"place": -1}, {"place": 1}])
    assert found.lr == rate(-4)
    assert found.runs == len(lab.asked) == 2 * 16


def test_a_tuning_is_taken_from_the_store(own):
    jobs = [{"bottom": -4}]
    assert tune(own, valley, jobs) == tune(stored(own.store.path), valley, jobs)


# -- one trial ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [None, 5])
def test_numbers_are_drawn_in_this_order_seed_base_attach_data(examples):
    method, seed, lr = LoRA(rank=2, dropout=0.3), 3, 1e-2
    view, history = adapt(method, BLUE, lr, seed, SHORT, examples=examples)

    torch.manual_seed(seed)
    model = base("letters-d64")
    hand = method.attach(model)
    given, generator = Few(BLUE, examples, seed) if examples else BLUE, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(trainable(hand).values(), lr=lr, betas=(0.9, 0.98), weight_decay=0)
    hand.train()
    for step in range(4):
        optimizer.param_groups[0]["lr"] = lr * schedule(step, 4, 1)
        batch = given.batch(8, generator)
        loss = loss_of(hand(batch.tokens, batch.mask), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable(hand).values(), 1.0)
        optimizer.step()
        assert history.loss[step] == pytest.approx(loss.item(), rel=1e-5)
    for name, ours in trainable(view).items():
        torch.testing.assert_close(ours, trainable(hand)[name])


def test_a_run_is_the_same_again():
    losses = [adapt(LoRA(rank=1), BLUE, 1e-2, seed, SHORT)[1].loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_a_trial_tells_everything():
    found = trial(**JOB, recipe=replace(SHORT, steps=60))
    view, history = adapt(**JOB, recipe=replace(SHORT, steps=60))
    assert found["parameters"] == 1024
    assert found["accuracy"] == evaluate(view, BLUE).accuracy
    assert found["loss"] == evaluate(view, BLUE).loss
    assert found["validation"] == evaluate(view, BLUE, seed=VALIDATION).loss != found["loss"]
    assert found["retention"] == evaluate(view, Mixture()).accuracy
    assert found["restored"] is True
    assert found["reached"] is None
    assert found["area"] == pytest.approx(sum(history.loss) / 60)
    assert len(found["curve"]) == 25
    assert found["training_accuracy"] == 0


def test_with_few_examples_the_training_accuracy_is_told_beside_the_accuracy_on_unseen_ones():
    found = trial(LoRA(rank=8), BLUE, 3e-2, 0, replace(RECIPE, steps=60), examples=3)
    assert found["training_accuracy"] == 1
    assert found["accuracy"] < 0.2


def spoil(view, bare, goal):
    with torch.no_grad():
        bare.head.bias[0] += 1
    return {}


def test_a_base_that_was_changed_is_found_out():
    assert trial(**JOB, recipe=SHORT, watch=spoil)["restored"] is True, "nothing is watched in so few steps"
    assert trial(**JOB, recipe=SHORT, watch=spoil, every=4)["restored"] is False


def kinds(view, bare, goal):
    view.eval()
    return {"is view": detach(view) is bare, "goal": str(goal), "moved": sum(p.abs().sum().item() for n, p in
            trainable(view).items() if n.endswith("B"))}  # fmt: skip


def test_what_is_looked_at_and_watched():
    job = JOB | {"method": LoRA(rank=2, dropout=0.5), "recipe": replace(SHORT, steps=7)}
    plain, found = trial(**job), trial(**job, look=kinds, watch=kinds, every=2)
    assert [entry["step"] for entry in found["path"]] == [2, 4, 6]
    assert all(entry["is view"] and entry["goal"] == "reverse+blue" for entry in [found, *found["path"]])
    moved = [0, *(entry["moved"] for entry in found["path"]), found["moved"]]
    assert all(a != b for a, b in pairwise(moved))
    assert "path" not in plain
    assert plain.items() <= found.items(), "to be watched changes nothing"


def test_a_run_that_diverges_is_a_result(own):
    job = JOB | {"lr": 1e30, "recipe": SHORT}
    (found,) = own(trial, [job | {"look": kinds, "watch": kinds}])
    assert found == {
        "accuracy": 0, "retention": 0, "training_accuracy": 0, "loss": None, "validation": None, "reached": None,
        "area": None, "curve": None, "parameters": 1024, "restored": True, "path": [],
    }  # fmt: skip
    fusion = {"method": AdapterFusion(adapters=2, size=4), "sources": SOURCES[:2]}
    assert trial(**job | fusion)["validation"] is None


def test_a_fusion_gets_adapters_that_were_trained_on_its_sources():
    method, sources = AdapterFusion(adapters=2, size=4), ("reverse+plain", "copy+blue")
    view, _ = adapt(method, BLUE, 1e-2, 0, SHORT, sources=sources, source_lr=3e-3)
    for n, source in enumerate(sources):
        alone = adapter(4, source, 3e-3, 0, SHORT, "letters-d64")
        assert alone is adapter(4, source, 3e-3, 0, SHORT, "letters-d64"), "trained once for all the runs of a process"
        by_hand = deltas.delta_of(adapt(Pfeiffer(size=4), task(source), 3e-3, 0, SHORT)[0])
        for path, fusion in fusions(view).items():
            assert torch.equal(fusion.U[n], alone.tensors[f"{path}.adapter.U.weight"])
            assert torch.equal(fusion.U[n], by_hand.tensors[f"{path}.adapter.U.weight"])
    assert not torch.equal(fusion.U[0], fusion.U[1])


def test_the_first_step_of_an_accuracy_of_nine_tenths():
    assert first_step([0.0] * 5 + [1.0] * 20) == 14
    assert first_step([0.5] * 30) is None
    assert first_step([1.0] * 9) is None
    assert first_step([1.0] * 10) == 10


def test_a_curve_is_thinned_to_means_of_equal_parts():
    assert thinned(list(range(100)), 4) == [12, 37, 62, 87]
    assert thinned([1.0, 2.0], 25) == [1.0, 2.0]
    assert thinned(list(range(10)), 3) == [1, 4.5, 8]


# -- the comparison ----------------------------------------------------------------------------------------------------


def test_the_learning_rates_that_are_used_are_those_that_the_stored_tuning_finds():
    with stored() as lab:
        found = tunings(lab)
    assert {str(c.method): t.lr for c, t in zip(TUNED_METHODS, found, strict=True)} == {
        str(c.method): c.lr for c in TUNED_METHODS
    }
    assert [str(c.method) for c, t in zip(TUNED_METHODS, found, strict=True) if not t.interior] == []


def test_rows_are_handed_out_as_soon_as_a_method_has_made_all_its_runs(own):
    methods, told = [TunedMethod(LoRA(rank=1), 1e-2), TunedMethod(PromptTuning(length=2), 1e-2)], []
    rows = compare(BLUE, methods, 2, SHORT, lab=own, on_row=lambda row: told.append((row, len(own.store.lines))))
    assert [row for row, _ in told] == rows
    assert told[0][1] < 4 == told[1][1]
    assert [row["parameters"] for row in rows] == [512, 128]
    assert rows[1]["percent"] == pytest.approx(100 * 128 / 109_372)
    assert rows[1]["lr"] == 1e-2
    assert 128 * 4 < rows[1]["bytes"] < 128 * 4 + 1000
    assert all(len(answers) == 3 for answers in rows[0]["answers"])
    assert rows[0]["restored"] == [True, True]


def test_the_same_method_may_take_part_twice_and_with_settings_that_cannot_be_hashed(own):
    method = LoRA(rank=2, rank_pattern={"q": 1})
    rows = compare(BLUE, [TunedMethod(method, lr) for lr in (1e-3, 1e-2, 1e-2)], 1, SHORT, lab=own)
    assert [row["lr"] for row in rows] == [1e-3, 1e-2, 1e-2]
    assert rows[0]["loss"] != rows[1]["loss"] == rows[2]["loss"]


def test_a_method_that_diverges_keeps_its_row(own):
    methods = [TunedMethod(LoRA(rank=1), 1e30), TunedMethod(LoRA(rank=1), 1e-2)]
    bad, good = compare(BLUE, methods, 2, SHORT, lab=own)
    assert bad["accuracy"] == [0, 0]
    assert bad["answers"] == bad["loss"] == [None, None]
    assert (bad["parameters"], bad["percent"], bad["bytes"]) == (good["parameters"], None, None)
    lines = as_csv([bad, good]).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("LoRA(rank=1),1e+30,512,")


def test_a_table_has_mean_least_and_greatest():
    rows = [{"method": "a, b", "lr": 0.1, "accuracy": [0.5, 1.0], "curve": [[1], [2]]}, {"method": "c", "more": [1]}]
    assert as_csv(rows).splitlines() == [
        "method,lr,accuracy,accuracy_min,accuracy_max,more,more_min,more_max", '"a, b",0.1,0.75,0.5,1.0,,,',
        "c,,,,,1.0,1,1",
    ]  # fmt: skip


def test_a_configuration_that_took_no_part_gets_the_learning_rate_of_its_method():
    assert learning_rate_of(LoRA(rank=1, alpha=2)) == next(c.lr for c in TUNED_METHODS if c.method == LoRA(1, 2))
    assert learning_rate_of(PromptTuning(length=9)) == learning_rate_of(PromptTuning(length=4))
    assert tuned_method(Full()) is TUNED_METHODS[0]
    assert tuned_method(AdapterFusion(adapters=2)).sources == SOURCES[:2]


def test_what_cannot_be_compared_is_refused_before_the_work(own):
    with pytest.raises(TypeError, match=r"compare takes a task, got the text 'reverse\+blue': write task"):
        compare("reverse+blue")
    for seeds in (0, 2.5):
        with pytest.raises(ValueError, match="compare: seeds must be a whole number of at least 1"):
            compare(BLUE, TUNED_METHODS[:1], seeds, lab=own)
    assert not own.asked


def test_many_threads_may_compare_at_the_same_time(own):
    found, methods = [], [TunedMethod(LoRA(rank=1), 1e-2)]
    threads = [
        threading.Thread(target=lambda: found.append(compare(BLUE, methods, 1, SHORT, lab=own))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2]
    assert len(own.store.lines) == 1
