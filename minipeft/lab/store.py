"""The store: every run that was made, one line each, never changed, found again by everything that it depends on.

A line of the file is {"key": ..., "result": ..., "seconds": ...}. The key holds the experiment's name, all its
arguments with their defaults, the whole training recipe, the versions of PyTorch and Python and the kind of machine:
whatever changes, old runs and new ones are never taken for each other.
"""

import inspect
import json
import math
import os
import platform
from dataclasses import asdict, is_dataclass
from pathlib import Path
from threading import Lock

import torch

from minipeft.files import write_atomically
from minipeft.training import RECIPE, Recipe

MADE_WITH = {
    "torch": torch.__version__.split("+")[0],
    "python": ".".join(platform.python_version_tuple()[:2]),
    "machine": platform.machine(),
}


def key_of(experiment, job, made_with):
    """What a run is stored under: a text of JSON."""
    bound = inspect.signature(experiment).bind(**job)
    bound.apply_defaults()
    arguments = {"recipe": RECIPE} | bound.arguments
    return json.dumps({"experiment": experiment.__name__} | plain(arguments) | made_with, sort_keys=True)


def plain(value):
    """Arguments as JSON: a recipe by its fields, a function by its name, a method or task as it is written."""
    if isinstance(value, dict):
        return {str(name): plain(v) for name, v in value.items()}
    if isinstance(value, Recipe):
        return plain(asdict(value))
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if inspect.isfunction(value):
        return f"{value.__module__}.{value.__name__}"
    return repr(value) if is_dataclass(value) else str(value)


class Store:
    """Runs in a file, `{key: line}` in `lines`. path=None keeps them in memory only.

    made_with: versions and machine that runs are looked for and stored under; none with `as_made`, which is for reading
    what was made elsewhere.

    A line that was cut short, because a machine went down, is left out and the run is made again.
    """

    def __init__(self, path=None, as_made=False):
        self.path, self.lines, self.lock = path and Path(path), {}, Lock()
        self.made_with = {} if as_made else MADE_WITH
        if self.path and self.path.exists():
            for text in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    line = json.loads(text)
                    self.lines[self.found_by(line["key"])] = line
                except (ValueError, KeyError, TypeError):
                    continue

    def found_by(self, key):
        """What a run with this key is looked for with."""
        return json.dumps({n: v for n, v in key.items() if n in self.made_with or n not in MADE_WITH}, sort_keys=True)

    def __contains__(self, key):
        return key in self.lines

    def __getitem__(self, key):
        return self.lines[key]["result"]

    def seconds(self, keys):
        """Seconds of one core that these runs took."""
        return sum(self.lines[key]["seconds"] for key in keys)

    def add(self, key, result, seconds):
        """Keep a run, at once and for good. Numbers are kept to five digits. Raises OSError if it cannot be written."""
        line = {"key": json.loads(key), "result": rounded(result), "seconds": round(seconds, 1)}
        with self.lock:
            if self.path:
                try:
                    self.write(line)
                except OSError as error:
                    said = f"{error.strerror}: a run was not added to {self.path}; those that it holds are safe"
                    raise OSError(error.errno, said) from None
            self.lines[key] = line

    def write(self, line):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            file.seek(-1 if file.tell() else 0, os.SEEK_END)
            whole = file.read() in (b"", b"\n")
            file.write((("" if whole else "\n") + json.dumps(line) + "\n").encode())

    def prune(self, keys):
        """Forget all runs but these, and put the file into order."""
        self.lines = {key: self.lines[key] for key in sorted(keys)}
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in self.lines.values()).encode())


def rounded(value):
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
