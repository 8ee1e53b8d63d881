"""Where runs are made: on this machine, or on any that a Dask cluster has.

    with executor_from("dask://192.168.0.7:8786") as executor, Lab("runs.jsonl", executor=executor) as lab: ...

To a worker travel the name of a function and its arguments, and its result travels back. Code and models do not travel:
every worker has a minipeft of its own. Before each job it is compared with the one here, file by file, and so are the
versions of Python and PyTorch and the kind of machine, because runs are stored under those of this machine.
"""

import hashlib
import importlib
import inspect
import multiprocessing
import platform
import threading
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

import minipeft.lab.pool as pool
from minipeft.lab.store import MADE_WITH

SECONDS = 10  # to reach a scheduler, and to wait for its first worker
ALONE = threading.Lock()  # two runs in one process would draw from the same source of random numbers


class Unfit(RuntimeError):
    """A worker that would not do what this process would."""


@contextmanager
def executor_from(text, workers=None):
    """A `concurrent.futures.Executor` for the body of a `with` statement; None for "processes", which a Lab has itself.

    text: "processes", "loky", or "dask://HOST:PORT" of a Dask scheduler. workers: so many processes of loky, by default
    one for each core; a cluster has its own.

    Raises ValueError for another text and for workers of several threads; ModuleNotFoundError if a package is missing;
    OSError if nobody answers at the address; Unfit if a worker is not as this process is.
    """
    if text == "processes":
        yield None
    elif text == "loky":
        with on_loky(workers or pool.cores()) as executor:
            yield executor
    elif text.startswith("dask://") and ":" in text.removeprefix("dask://"):
        if workers:
            raise ValueError("how many workers a Dask cluster has is told when it is started: leave --workers out")
        if pool.FIRST:
            raise ValueError("a student's file is on this machine alone: with MINIPEFT_USE, leave --executor dask out")
        with on_dask(text.removeprefix("dask://")) as executor:
            yield executor
    else:
        raise ValueError(f"an executor is processes, loky or dask://HOST:PORT (usually the port 8786), got {text!r}")


def package(name, executor):
    """The module. Raises ModuleNotFoundError, with what to install, if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ModuleNotFoundError(f"the executor {executor} needs the package {name}: pip install {name}") from None


@contextmanager
def on_loky(workers):
    loky = package("loky", "loky")
    one_thread = {"OMP_NUM_THREADS": "1"}  # before its first import of torch
    inner = loky.ProcessPoolExecutor(workers, initializer=begin, initargs=(tuple(pool.FIRST),), env=one_thread)
    try:
        yield Checked(inner, workers)
    except BaseException:
        inner.shutdown(kill_workers=True)
        raise
    inner.shutdown()


def begin(first):
    """What a worker of loky does before its first job. Processes that a job starts are Python's own, not loky's."""
    multiprocessing.set_start_method("spawn", force=True)
    for function in first:
        function()


@contextmanager
def on_dask(address):
    distributed = package("distributed", "dask")
    try:
        client = distributed.Client(f"tcp://{address}", timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {address} within {SECONDS} seconds ({error}); one is started with: "
            "dask scheduler"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS)
        except TimeoutError:
            raise OSError(f"the Dask scheduler at {address} has no workers; {started_with(address)}") from None
        threads = client.nthreads()
        if several := [f"{worker} has {number}" for worker, number in threads.items() if number > 1]:
            raise ValueError(
                f"a worker makes one run at a time, in one thread, but {several[0]}; {started_with(address)}"
            )
        try:
            found = client.run(here, ("minipeft",))
        except ImportError as error:
            raise Unfit(f"a worker cannot import minipeft ({error}); {started_with(address)}") from None
        for worker, facts in found.items():
            match(here(("minipeft",)), facts, worker)
        yield Checked(client.get_executor(pure=False), len(threads))


def started_with(address):
    return f"one is started, in the folder of minipeft, with: dask worker {address} --nthreads 1 --no-nanny"


class Checked(Executor):
    """An executor whose workers do a job only if they are as this process is. workers: how many there are."""

    def __init__(self, inner, workers):
        self.inner, self.workers = inner, workers

    def submit(self, function, /, *args):
        functions = [f for f in (function, *args) if inspect.isfunction(f)]
        packages = {f.__module__.partition(".")[0] for f in functions} - {"__main__"}
        return self.inner.submit(checked, here(tuple(sorted(packages | {"minipeft"}))), function, *args)


def checked(facts, function, *args):
    """In the worker: do the job, on one thread and with no other job beside it. Raises Unfit if the facts differ."""
    match(facts, here(tuple(facts["files"])), platform.node())
    with ALONE:
        torch.set_num_threads(1)
        return function(*args)


def match(wanted, found, worker):
    """Raises Unfit, with the first difference, if a worker is not as this process is."""
    for what, value in (wanted | wanted["files"]).items():
        other = (found | found["files"]).get(what)
        if what != "files" and other != value:
            raise Unfit(
                f"the worker {worker} has {what} {other}, here it is {value}: give it the same, or results would be "
                "stored as what they are not"
            )


@cache
def here(packages):
    """What has to be the same in every worker: versions, the machine, and the files of these packages as a hash."""
    return MADE_WITH | {"files": {name: files_of(name) for name in packages}}


def files_of(name):
    """SHA-256 of the files of a package, of minipeft also of those that are no code: exercises and digits."""
    folder, digest = Path(importlib.import_module(name).__file__).parent, hashlib.sha256()
    suffixes = (".py", ".toml", ".md", ".npz") if name == "minipeft" else (".py",)
    for path in sorted(folder.rglob("*")):
        if path.suffix in suffixes and "__pycache__" not in path.parts:
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
