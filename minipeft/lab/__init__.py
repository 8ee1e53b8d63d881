"""The laboratory: one trial, one pool of processes, one store of runs, one way to choose a learning rate.

lab = Lab(store="runs.jsonl")
(run,) = lab(trial, [{"method": LoRA(rank=4), "goal": task("reverse+blue"), "lr": 3e-2, "seed": 0}])
run["accuracy"]                      # and loss, retention, curve, ...: see `trial`

`compare` sets every method beside every other; the claims and the command line stand on the same four parts.
"""

from minipeft.lab.comparison import TUNED_METHODS, TunedMethod, as_csv, compare, learning_rate_of, tuned_method
from minipeft.lab.executors import executor_from
from minipeft.lab.pool import Lab, NotStored, stored
from minipeft.lab.store import Store
from minipeft.lab.trial import adapt, trial
from minipeft.lab.tuning import SEEDS, Tuning, tune
from minipeft.lab.worlds import WORLDS, known, world

__all__ = [
    "SEEDS", "TUNED_METHODS", "WORLDS", "Lab", "NotStored", "Store", "TunedMethod", "Tuning", "adapt", "as_csv",
    "compare", "executor_from", "known", "learning_rate_of", "stored", "trial", "tune", "tuned_method", "world",
]  # fmt: skip
