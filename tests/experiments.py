"""Experiments that a lab runs in tests. Workers import this file, so it imports little."""

import os
import time
from pathlib import Path


def counted(folder, number, wait=0.0):
    """Leaves a line for each time that it is run."""
    with open(Path(folder) / "made", "a") as file:
        file.write(f"{number}\n")
    time.sleep(wait)
    return {"number": number, "third": number / 3, "pid": os.getpid()}


def stored_so_far(path, number):
    return {"lines": len(Path(path).read_text().splitlines()) if Path(path).exists() else 0}


def endless(folder, number):
    (Path(folder) / f"{os.getpid()}.pid").write_text("")
    time.sleep(600 * (number > 0))
    return {"number": number}


def impossible(number):
    if number == 1:
        raise FloatingPointError("what happened in the worker")
    return {"number": number}


def made(folder):
    return (folder / "made").read_text().split()


def jobs_for(folder, *numbers, **more):
    return [{"folder": str(folder), "number": number} | more for number in numbers]
