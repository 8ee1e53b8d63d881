"""The laboratory: runs experiments in parallel and keeps every result, so that nothing is run twice.

An experiment is a function of plain arguments and methods that returns a dictionary of numbers. A job is a dictionary
of its arguments. Each result is one line of runs.jsonl, with the job, the seconds of one core that it took, and the
versions that made it. Delete a line, and the next `python run.py claims` runs that job again.
"""

import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Lock

import torch
from tqdm.auto import tqdm

from minipeft.attach import detach, trainable
from minipeft.bases import base as shipped
from minipeft.comparison import STEPS, cores
from minipeft.deltas import fingerprint
from minipeft.tasks import Few, Mixture, task
from minipeft.training import VALIDATION, evaluate, fit

KNOWN, HELD_OUT, NEW = task("reverse+red"), task("reverse+blue"), task("reverse+violet")
RUNS = Path(__file__).with_name("runs.jsonl")
SEEDS, TUNING = (0, 1, 2), (100,)  # learning rates are chosen with seeds and examples that are not reported
MADE_WITH = {"torch": torch.__version__.split("+")[0], "python": platform.python_version(), "cpu": platform.machine()}


def key_of(experiment, job):
    """What a result is stored under: plain JSON, {"experiment": "train", "method": "LoRA(rank=4)", "lr": 0.03, ...}."""
    plain = {k: v if isinstance(v, bool | int | float | None) else str(v) for k, v in job.items()}
    return json.dumps({"experiment": experiment.__name__} | plain)


def timed(experiment, job):
    begun = time.process_time()
    result = json.dumps(experiment(**job))
    return json.loads(result, parse_float=lambda digits: float(f"{float(digits):.5g}")), time.process_time() - begun


class Lab:
    """`lab(train, jobs)` gives the results of the jobs in their order; what is stored is not run.

    path: the store. workers: processes of one thread each, by default one for each core. again: what was stored before
    is run anew.
    `lab.asked` holds the keys of all jobs asked for so far. Several threads may ask at once.
    """

    def __init__(self, path=RUNS, workers=None, again=False, progress=True):
        self.path, self.workers, self.again = path, workers or cores(), again
        lines = path.read_text().splitlines() if path.exists() else ()
        self.stored = {json.dumps(line["job"]): line for line in map(json.loads, lines)}
        self.running, self.made, self.asked, self.pool = {}, set(), set(), None
        self.lock, self.writing = Lock(), Lock()
        self.bar = tqdm(total=0, disable=not progress, unit="run", mininterval=1)

    def __call__(self, experiment, jobs):
        keys = [key_of(experiment, job) for job in jobs]
        with self.lock:
            self.asked |= set(keys)
            for key, job in zip(keys, jobs, strict=True):
                if key not in self.running and (self.again or key not in self.stored):
                    self.running[key] = self.submit(experiment, job)
        return [self.result(key) for key in keys]

    def submit(self, experiment, job):
        if self.pool is None:
            os.environ["OMP_NUM_THREADS"] = "1"
            spawn = get_context("spawn")
            self.pool = ProcessPoolExecutor(self.workers, spawn, initializer=torch.set_num_threads, initargs=(1,))
        self.bar.total += 1
        future, key = self.pool.submit(timed, experiment, job), key_of(experiment, job)
        future.add_done_callback(lambda done: done.cancelled() or done.exception() or self.store(key, done))
        return future

    def store(self, key, done):
        with self.writing:
            if key not in self.made:
                self.made.add(key)
                result, seconds = done.result()
                line = {"job": json.loads(key), "result": result, "seconds": round(seconds, 1)} | MADE_WITH
                with self.path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                self.stored[key] = line
                self.bar.update()

    def result(self, key):
        if key in self.running:
            self.running[key].result()
            self.store(key, self.running[key])
        return self.stored[key]["result"]

    def seconds(self, keys):
        """Seconds of one core that these jobs took."""
        return sum(self.stored[key]["seconds"] for key in keys)

    def close(self, prune=False):
        """Stop the workers. prune: forget what was stored and not asked for, and put the store into order."""
        if self.pool:
            self.pool.shutdown(cancel_futures=True)
        self.bar.close()
        if prune:
            lines = [json.dumps(self.stored[key]) for key in sorted(self.asked)]
            self.path.write_text("\n".join(lines) + "\n")


def train(method, goal, lr, seed, steps=STEPS, batch=64, examples=None, base="letters-d64"):
    """One run of training, from a fresh base.

    parameters (trained), accuracy (on unseen examples of the task), validation (loss on other examples), retention
    (accuracy on the pretraining mixture, method attached), restored (is the detached base the same bit for bit),
    reached (the first step at which the mean accuracy of ten batches is .9); with `examples`, training_accuracy (on the
    examples that were trained on).
    """
    model = shipped(base)
    before, given = fingerprint(model), goal if examples is None else Few(goal, examples, seed)
    torch.manual_seed(seed)
    model = method.attach(model)
    found = {"parameters": sum(p.numel() for p in trainable(model).values())}
    nothing = {"accuracy": 0.0, "validation": None, "training_accuracy": 0.0, "retention": 0.0, "reached": None}
    try:
        history = fit(model, given, steps=steps, lr=lr, batch_size=batch, seed=seed, device="cpu", progress=False)
    except FloatingPointError:
        return found | nothing | {"restored": fingerprint(detach(model)) == before}
    found["accuracy"] = evaluate(model, goal).accuracy
    found["validation"] = evaluate(model, goal, seed=VALIDATION).loss
    if examples is not None:
        found["training_accuracy"] = evaluate(model, given, size=examples).accuracy
    found["retention"] = evaluate(model, Mixture()).accuracy
    found["reached"] = first_step(history.accuracy)
    return found | {"restored": fingerprint(detach(model)) == before}


def first_step(accuracy, level=0.9, window=10):
    """The first step at which the mean of the last `window` reaches the level, or None."""
    for step in range(window, len(accuracy) + 1):
        if sum(accuracy[step - window : step]) >= level * window:
            return step
    return None
