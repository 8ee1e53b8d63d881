"""The main job: the shipped base is adapted to one task with every method, over several seeds.

A method joins by a line in TUNED_METHODS: the method with its settings and its learning rate, which `sweep` chose on
examples that are not reported here.
"""

import csv
import io
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm.auto import tqdm

from minipeft import deltas
from minipeft.arguments import a_task, checked
from minipeft.attach import Method, detach, trainable
from minipeft.bases import base
from minipeft.methods import (
    IA3,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
    VeRA,
)
from minipeft.tasks import Few, Mixture, answer, task
from minipeft.training import VALIDATION, evaluate, fit

STEPS = 300
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)  # every method is offered the same ones


@dataclass(frozen=True)
class TunedMethod:
    """A method, its learning rate, and for a fusion the tasks whose adapters it fuses, trained first."""

    method: Method
    lr: float
    sources: tuple[str, ...] = ()


TUNED_METHODS = (  # the learning rates are those of benchmarks/learning_rates.json
    TunedMethod(Full(), 1e-2),
    TunedMethod(LoRA(rank=1), 1e-2),
    TunedMethod(LoRA(rank=2), 3e-2),
    TunedMethod(LoRA(rank=4), 3e-2),
    TunedMethod(LoRA(rank=8), 3e-2),
    TunedMethod(PromptTuning(length=4), 3e-2),
    TunedMethod(PTuning(length=4), 1e-2),
    TunedMethod(PrefixTuning(length=4), 3e-1),
    TunedMethod(PTuningV2(length=4), 3e-1),
    TunedMethod(Houlsby(size=8), 1e-2),
    TunedMethod(Pfeiffer(size=16), 1e-2),
    TunedMethod(ParallelAdapter(size=16), 1e-2),
    TunedMethod(AdapterFusion(adapters=3), 3e-2, sources=("reverse+plain", "copy+blue", "sort+red")),
    TunedMethod(BitFit(), 1e-1),
    TunedMethod(IA3(), 1e-1),
    TunedMethod(AdaLoRA(rank=1, initial_rank=2), 1e-1),
    TunedMethod(QLoRA(rank=2), 1e-2),
    TunedMethod(DoRA(rank=4), 3e-1),
    TunedMethod(VeRA(rank=64), 1e-1),
    TunedMethod(PiSSA(rank=4), 3e-2),
)


FIRST = []  # functions that each worker process calls before its first job


def learning_rate_of(method):
    """The learning rate that the sweep found for this method, or for another configuration of it; else 0.01."""
    same = [c.lr for c in TUNED_METHODS if c.method == method]
    alike = [c.lr for c in TUNED_METHODS if type(c.method) is type(method)]
    return (same + alike + [1e-2])[0]


def adapt(tuned, goal, steps, seed):
    """One run from a fresh base: returns the adapted model and its History. `seed` draws initialisation and data."""
    model, method = base(), tuned.method
    adapters = [adapter(method.size, source, steps, seed) for source in tuned.sources]
    torch.manual_seed(seed)
    model = method.attach(model)
    if adapters:
        method.fill(model, adapters)
    history = fit(model, goal, steps=steps, lr=tuned.lr, seed=seed, device="cpu", progress=False)
    return model, history


@cache
def adapter(size, source, steps, seed):
    """An adapter for a fusion, trained on a task of its own."""
    method = Pfeiffer(size=size)
    return deltas.delta_of(adapt(TunedMethod(method, learning_rate_of(method)), task(source), steps, seed)[0])


def parallel(function, jobs, workers=1, progress=True, on_done=None):
    """[function(*job) for job in jobs], in `workers` processes of one thread each; on_done(job, result) is called here.

    workers=1 stays in this process; None takes one for each core. Models this small gain nothing from more threads.
    """
    workers = min(workers or cores(), len(jobs))
    with tqdm(total=len(jobs), disable=not progress, leave=False) as bar:

        def done(job, result):
            if on_done:
                on_done(job, result)
            bar.set_description(str(job[0].method))
            bar.update()
            return result

        if workers <= 1:
            return [done(job, function(*job)) for job in jobs]
        pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=begin, initargs=(tuple(FIRST),))
        try:
            futures = {pool.submit(function, *job): job for job in jobs}
            for future in as_completed(futures):
                done(futures[future], future.result())
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)


def begin(first):
    """What a worker process does before its first job."""
    torch.set_num_threads(1)
    for function in first:
        function()


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def compare(goal, tuned_methods=TUNED_METHODS, steps=STEPS, seeds=3, examples=None, words=(), workers=1, progress=True,
            on_run=None):  # fmt: skip
    """One row for each method, a dictionary:

    method, parameters (trained), percent (of the base), lr, bytes (of the saved delta), and lists over seeds: accuracy
    (on unseen examples of the task), retention_attached and retention_detached (accuracy on the pretraining mixture),
    seconds (of training), answers (to `words`); with `examples`, training_accuracy (on the examples trained on).

    Args:
        examples: train on so many examples of the task instead of new ones at every step; each seed draws its own.
        workers: see `parallel`.
        on_run: called as `on_run(tuned, seed, result)` after each run.
    """
    a_task("compare", goal)
    steps, seeds = checked("compare: steps", steps, int), checked("compare: seeds", seeds, int)
    jobs = [(c, goal, steps, seed, examples, words) for c in tuned_methods for seed in range(seeds)]
    done = on_run and (lambda job, result: on_run(job[0], job[3], result))
    results, rows = parallel(one_run, jobs, workers, progress, done), []
    for i, c in enumerate(tuned_methods):
        runs = results[i * seeds : (i + 1) * seeds]
        listed = {k: [run[k] for run in runs] for k in runs[0] if k not in ("parameters", "percent", "bytes")}
        rows.append({"method": str(c.method), "lr": c.lr, **runs[0], **listed})
    return rows


def one_run(tuned, goal, steps, seed, examples, words):
    """One method, one seed: what `compare` lists."""
    given = goal if examples is None else Few(goal, examples, seed)
    model, history = adapt(tuned, given, steps, seed)
    result = {"parameters": sum(p.numel() for p in trainable(model).values())}
    result["accuracy"] = evaluate(model, goal).accuracy
    if examples is not None:
        result["training_accuracy"] = evaluate(model, given, size=examples).accuracy
    result["retention_attached"] = evaluate(model, Mixture()).accuracy
    result["seconds"] = history.seconds
    result["answers"] = [answer(model, word) for word in words]
    with tempfile.TemporaryDirectory() as folder:
        result["bytes"] = deltas.save(model, Path(folder) / "delta.safetensors")
    result["retention_detached"] = evaluate(detach(model), Mixture()).accuracy
    result["percent"] = 100 * result["parameters"] / sum(p.numel() for p in detach(model).parameters())
    return result


def sweep(tasks, tuned_methods=TUNED_METHODS, learning_rates=LEARNING_RATES, steps=STEPS, seeds=(100,), examples=None,
          found=None, workers=1, progress=True, on_run=None):  # fmt: skip
    """Every method at every learning rate, on the validation sample of every task.

    Returns {method: {learning rate: [one dictionary of task, seed, accuracy and loss for each run]}}. Seeds and
    examples are none of those that `compare` reports. A run that diverges counts as accuracy 0, loss infinite.

    examples: as in `compare`.
    found: what an earlier sweep returned; it is filled in place, and only the runs that it lacks are made.
    on_run: called as `on_run(found)` after each run.
    """
    for goal in tasks:
        a_task("sweep", goal)
    found, jobs = {} if found is None else found, []
    for c in tuned_methods:
        by_lr = found.setdefault(str(c.method), {})
        for lr in learning_rates:
            runs = by_lr.setdefault(f"{lr:g}", [])
            there = {(run["task"], run["seed"]) for run in runs}
            new = [(t, steps, s, examples) for t in tasks for s in seeds if (str(t), s) not in there]
            jobs += [(replace(c, lr=lr), *run) for run in new]

    def on_done(job, run):
        runs = found[str(job[0].method)][f"{job[0].lr:g}"]
        runs.append(run)
        runs.sort(key=lambda run: (run["task"], run["seed"]))
        if on_run:
            on_run(found)

    parallel(try_learning_rate, jobs, workers, progress, on_done)
    return found


def try_learning_rate(tuned, goal, steps, seed, examples):
    given = goal if examples is None else Few(goal, examples, seed)
    try:
        score = evaluate(adapt(tuned, given, steps, seed)[0], goal, seed=VALIDATION)
        accuracy, loss = score.accuracy, score.loss
    except FloatingPointError:
        accuracy, loss = 0.0, float("inf")
    return {"task": str(goal), "seed": seed, "accuracy": round(accuracy, 4), "loss": round(loss, 6)}


def best_learning_rate(by_lr):
    """The one of least validation loss, over all tasks and seeds, from one method's part of what `sweep` gives."""
    return float(min(by_lr, key=lambda lr: sum(run["loss"] for run in by_lr[lr])))


def as_csv(rows):
    """The rows of `compare` as the text of a table; what is a list over seeds becomes mean, least and greatest."""
    flat = []
    for row in rows:
        flat.append({})
        for key, value in row.items():
            if key == "answers":
                continue
            if isinstance(value, list):
                flat[-1] |= {key: sum(value) / len(value), f"{key}_min": min(value), f"{key}_max": max(value)}
            else:
                flat[-1][key] = value
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, flat[0])
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()
