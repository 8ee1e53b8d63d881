"""The pool: experiments run in processes of one thread each, and what is stored is not run again."""

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process

import torch
from tqdm.auto import tqdm

from minipeft.bases import FOLDER
from minipeft.lab.store import Store, key_of

SHIPPED = FOLDER.parent / "claims" / "runs.jsonl"  # the runs of the ledger
FIRST = []  # functions that each worker process calls before its first job


class NotStored(LookupError):
    """A run is not there, and none may be made."""


class Lab:
    """`lab(experiment, jobs)` gives the results of the jobs, in their order.

    An experiment is a function at the top of a module that returns a dictionary of numbers; a job is a dictionary of
    its arguments. Several threads may ask at once, and a job that two of them ask for is run once.

    Use it in a `with` statement: when that ends, so do the workers, at once if it ends with an error or with Ctrl-C.
    What was finished by then is stored.

    Args:
        store: a Store, the path of one, or None to keep nothing.
        workers: processes; None takes one for each core. 1 stays in this process, in a thread of its own: while it
            works, nothing else may draw random numbers here.
        executor: any other `concurrent.futures.Executor` instead; see `executors`, which checks its workers. It is left
            running.
        again: run anew what was stored before.
        only_stored: run nothing; NotStored for what is missing.
        progress: show a bar.
    """

    def __init__(self, store=None, workers=None, executor=None, again=False, only_stored=False, progress=True):
        self.store = store if isinstance(store, Store) else Store(store)
        self.workers, self.executor, self.own = workers or cores(), executor, executor is None
        self.again, self.asked, self.running, self.kept = again, set(), {}, set()
        self.lock, self.only_stored, self.leash = threading.RLock(), only_stored, None
        self.bar = tqdm(total=0, disable=not progress, unit="run", leave=False, mininterval=1)

    def __call__(self, experiment, jobs, on_done=None):
        """on_done(job, result): called here as each result comes in."""
        if "." in experiment.__qualname__:
            raise TypeError(f"an experiment is a function at the top of a module, got {experiment.__qualname__}")
        keys, waiting = [self.key(experiment, job) for job in jobs], {}
        with self.lock:
            self.asked |= set(keys)
            for key, job in zip(keys, jobs, strict=True):
                if key not in self.running and (self.again or key not in self.store):
                    self.running[key] = self.submit(key, experiment, job)
        for key, job in zip(keys, jobs, strict=True):
            if key in self.running:
                waiting.setdefault(self.running[key], []).append((key, job))
            elif on_done:
                on_done(job, self.store[key])
        for future in as_completed(waiting):
            for key, job in waiting[future]:
                self.keep(key, future)
                if on_done:
                    on_done(job, self.store[key])
        return [self.store[key] for key in keys]

    def key(self, experiment, job):
        """What the run is stored under."""
        return key_of(experiment, job, self.store.made_with)

    def submit(self, key, experiment, job):
        if self.only_stored:
            raise NotStored(f"{self.store.path} does not hold this run: {key}")
        self.bar.total += 1
        if self.executor is None and self.workers == 1:
            self.executor = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        elif self.executor is None:
            os.environ["OMP_NUM_THREADS"] = "1"  # for the workers' first import of torch
            context = get_context("spawn")
            end, self.leash = context.Pipe(duplex=False)
            self.executor = ProcessPoolExecutor(self.workers, context, begin, (end, tuple(FIRST)))
        with uninterrupted():
            future = self.executor.submit(timed, experiment, job)
        future.add_done_callback(lambda done: self.keep_early(key, done))
        return future

    def keep_early(self, key, future):
        """Store a result as soon as it is there, whoever waits for it. If it fails, `keep` tries again, and tells."""
        if not future.cancelled() and not future.exception():
            with suppress(OSError):
                self.keep(key, future)

    def keep(self, key, future):
        """Store a result, once. Raises what the experiment raised, or OSError if it cannot be written."""
        result, seconds = future.result()
        with self.lock:
            if future not in self.kept:
                self.store.add(key, result, seconds)
                self.kept.add(future)
                self.bar.update()

    def close(self, now=False):
        """Stop the workers; runs that have not begun are not made. now: also break off those that have begun."""
        for future in list(self.running.values()):
            future.cancel()
        if now and self.leash:
            self.leash.close()
        if self.own and self.executor:
            self.executor.shutdown(cancel_futures=True)
        self.bar.close()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        self.close(now=error is not None)


def stored(path=SHIPPED):
    """A Lab that hands out the runs of a file, wherever they were made, and runs nothing."""
    return Lab(Store(path, as_made=True), only_stored=True, progress=False)


def timed(experiment, job):
    begun = time.process_time()
    return experiment(**job), time.process_time() - begun


@contextmanager
def uninterrupted():
    """Ctrl-C waits, and processes that are begun meanwhile never get it: it is for the parent."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(leash, first):
    """What a worker process does before its first job. It ends when its parent lets go of the leash or is gone, however
    that came about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # tqdm would make one for all processes, which nobody cleans up
    torch.set_num_threads(1)
    threading.Thread(target=end_with, args=(leash, parent_process().sentinel), daemon=True).start()
    for function in first:
        function()


def end_with(leash, parent):
    connection.wait([leash, parent])
    os._exit(1)


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
