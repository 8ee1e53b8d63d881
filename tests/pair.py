"""What two processes do for tests/test_processes.py: torchrun --nproc-per-node 2 -m tests.pair SCENARIO FILE.

Process 0 writes what was found to the file, as JSON.
"""

import copy
import json
import os
import sys
from functools import partial

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from minipeft import processes
from minipeft.attach import trainable
from minipeft.bases import base
from minipeft.costs import predict
from minipeft.deltas import checksum, delta_of, fingerprint, save
from minipeft.methods import METHODS, AdaLoRA, LoRA, QLoRA
from minipeft.mixing import MultiTask
from minipeft.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minipeft.tasks import VOCABULARY, Together, task
from minipeft.training import evaluate, fit
from minipeft.views import merge
from minipeft.worlds.pairs import Pairs
from minipeft.worlds.scenes import Scenes
from tests.models import BOS, VOCAB, Ragged, gap, make, stirred

torch.set_num_threads(1)
SETTINGS = {"steps": 5, "batch_size": 5, "lr": 1e-2, "device": "cpu", "progress": False}
FAST = AdaLoRA(rank=1, initial_rank=2, interval=1, gamma=0.3)  # it prunes after steps 1 to 3


def as_it_is(model):
    return model


def run(model, goal, wrap=as_it_is, **settings):
    """Train; returns (history, {name: parameter}, the gradients of each step, as the optimizer got them)."""
    seen, parameters = [], trainable(model)

    def look(step):
        seen.append({n: None if p.grad is None else p.grad.clone() for n, p in parameters.items()})

    history = fit(wrap(model), goal, on_step=look, **SETTINGS | settings)
    return history, {name: p.detach() for name, p in parameters.items()}, seen


def compared(alone, together):
    """How far apart the runs of one process and of several are; `alike`: are all processes the same, bit for bit?"""
    (h, p, g), (h2, p2, g2) = alone, together
    told = processes.gather([checksum(p2), h2.loss, h2.accuracy])
    return {
        "parameters": gap(p, p2),
        "gradients": max(map(gap, g, g2)),
        "loss": max(abs(a - b) for a, b in zip(h.loss, h2.loss, strict=True)),
        "accuracy": max(abs(a - b) for a, b in zip(h.accuracy, h2.accuracy, strict=True)),
        "alike": all(one == told[0] for one in told),
        "sent": h2.sent,
        "alone": h.sent,
    }


def method_of(name):
    return {"AdaLoRA": FAST, "QLoRA": QLoRA(block_size=4)}.get(name) or METHODS[name]()


def view_of(method):
    return stirred(method, make().double().requires_grad_(False))


def several_tasks():
    torch.manual_seed(0)
    names = ("reverse+blue", "copy+red", "sort+next")
    shared = LoRA(rank=2).attach(base().double())
    return MultiTask({name: LoRA(rank=1).attach(shared, together=True) for name in names}), Together(
        {name: task(name) for name in names}
    )


def encoder_decoder():
    torch.manual_seed(0)
    config = EncoderDecoderConfig(len(VOCABULARY), start=2, dim=12, heads=3, ff=20, context=24, bos=BOS)
    return LoRA(rank=2).attach(EncoderDecoder(config).double()), Pairs(task("reverse+blue"))


def equal(path):
    """Every method, and what is special about some runs: one process, then two."""
    ddp = DistributedDataParallel
    cases = {name: (partial(view_of, method_of(name)), Ragged(), {}) for name in METHODS}
    cases |= {
        "fewer rows than processes": (partial(view_of, FAST), Ragged(), {"batch_size": 1}),
        "nothing asked of process 0": (partial(view_of, FAST), Ragged((0, 2, 4)), {}),
        "DDP around LoRA+": (partial(view_of, LoRA(lr_ratio=16)), Ragged(), {"wrap": ddp}),
        "DDP around AdaLoRA": (partial(view_of, FAST), Ragged(), {"wrap": ddp}),
    }
    alone = {name: run(start(), goal, **more | {"wrap": as_it_is}) for name, (start, goal, more) in cases.items()}
    pairs = {"several tasks": several_tasks, "encoder and decoder": encoder_decoder}
    alone |= {name: run(*both()) for name, both in pairs.items()}
    processes.join()
    found = {}
    for name, (start, goal, more) in cases.items():
        view = start()
        found[name] = compared(alone[name], run(view, goal, **more))
        found[name] |= {"predicted": predict(view).gradients, "tensors": len(trainable(view))}
    found |= {name: compared(alone[name], run(*both())) for name, both in pairs.items()}
    found["evaluate"] = alike_scores(view_of(LoRA()))
    found["statistics"] = statistics()
    write(path, found)


def alike_scores(view):
    return processes.rank() > 0 or evaluate(view, Ragged(), 60).loss  # one process alone may do it


class Normed(nn.Module):
    """Token means through a BatchNorm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.head = nn.Embedding(VOCAB, 4), nn.BatchNorm1d(4), nn.Linear(4, VOCAB)

    def forward(self, tokens, mask=None):
        return self.head(self.norm(self.embed(tokens).mean(1)))[:, None].expand(-1, tokens.shape[1], -1)


def statistics():
    """Running statistics after one step: the mean of what the processes' rows give, by their number."""
    model, goal = Normed().double(), Ragged(())
    given = goal.batch(5, torch.Generator().manual_seed(0)).tokens
    expected = 0
    for own in (given[0::2], given[1::2]):
        once = copy.deepcopy(model.norm)
        once(model.embed(own).mean(1))
        expected = expected + torch.stack([once.running_mean, once.running_var]) * len(own) / 5
    fit(model, goal, **SETTINGS | {"steps": 1})
    found = torch.stack([model.norm.running_mean, model.norm.running_var])
    told = processes.gather(checksum({"found": found}))
    return {"gap": float((found - expected).abs().max()), "alike": len(set(told)) == 1}


# -- what goes wrong ---------------------------------------------------------------------------------------------------


class Failing(Ragged):
    """Process 1 meets an error in its third batch."""

    def batch(self, size, generator):
        self.drawn = getattr(self, "drawn", 0) + 1
        if self.drawn == 3 and processes.rank() == 1:
            raise KeyError("no such row")
        return super().batch(size, generator)


class Careless(Ragged):
    """It draws with random numbers of its own."""

    def batch(self, size, generator):
        return super().batch(size, torch.Generator().manual_seed(processes.rank()))


class Poisoned(nn.Module):
    """Logits of the rows of process 1 are not finite from the second step on."""

    def __init__(self):
        super().__init__()
        self.model, self.passes = make(), 0

    def forward(self, tokens, mask=None):
        self.passes += 1
        return self.model(tokens, mask) / float(not (processes.rank() and self.passes == 2))


def wrong(path):
    """{what was wrong: what each process said of it}."""
    processes.join()
    first = processes.rank() == 0

    def seeded(seed):
        torch.manual_seed(seed)
        return LoRA().attach(make())

    def differing():
        model = make()
        torch.manual_seed(processes.rank())
        return fit(LoRA().attach(model), Ragged(), **SETTINGS)

    sharded = seeded(0)
    fully_shard(sharded)
    found = {}
    for name, do in {
        "an error in one": lambda: fit(seeded(0), Failing(), **SETTINGS),
        "not finite in one": lambda: fit(Poisoned(), Ragged(), **SETTINGS),
        "other parameters": differing,
        "other settings": lambda: fit(seeded(0), Ragged(), **SETTINGS | {"steps": 4 + processes.rank()}),
        "other batches": lambda: fit(seeded(0), Careless(), **SETTINGS),
        "rows that need each other": lambda: fit(seeded(0), Scenes(), **SETTINGS),
        "FSDP: fit": lambda: fit(sharded, Ragged(), **SETTINGS),
        "FSDP: save": lambda: save(sharded, f"{path}.delta"),
        "FSDP: delta_of": lambda: delta_of(sharded),
        "FSDP: fingerprint": lambda: fingerprint(sharded),
        "FSDP: merge": lambda: merge(sharded),
        "FSDP: attach": lambda: LoRA().attach(sharded),
    }.items():
        try:
            do()
            said = "nothing"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        found[name] = processes.gather(said)
    history = fit(seeded(0), Ragged(), **SETTINGS)
    found["all goes on"] = processes.gather(f"{len(history.loss)} steps")
    if first:
        assert not os.path.exists(f"{path}.delta")
    write(path, found)


def gone(path):
    """Process 1 ends in the middle."""
    processes.join()

    def leave(step):
        if step == 1 and processes.rank() == 1:
            os._exit(3)

    torch.manual_seed(0)
    try:
        fit(LoRA().attach(make()), Ragged(), on_step=leave, **SETTINGS)
    except RuntimeError as error:
        write(path, str(error))


def write(path, found):
    """The last thing a process does. It ends without PyTorch's own clearing up, which after DDP or FSDP on gloo may
    abort (torch 2.13: "terminate called without an active exception")."""
    if processes.rank() == 0:
        with open(path, "w") as file:
            json.dump(found, file)
    os._exit(0)


if __name__ == "__main__":
    {"equal": equal, "wrong": wrong, "gone": gone}[sys.argv[1]](sys.argv[2])
