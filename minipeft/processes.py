"""One run on several processes: each takes its rows of every batch, and together they make the step that one would.

    torchrun --nproc-per-node 2 -m minipeft train reverse+blue

Every process holds the whole model and draws the same batches. Of a batch, process r of n takes the rows r, r + n, and
so on. `fit` weighs what a row adds to the loss by the tokens that it asks, so the sum over the processes is the loss of
the whole batch, also where rows are padded and where a process has fewer rows than another, or none. One message a step
carries the gradients of what is trained, in single precision or better, and a few numbers beside them. After it all
processes have the same gradients, and so make the same step: cut by the same norm, with the same ranks pruned.

Two things differ from one process. Dropout draws in each process for its own rows. A BatchNorm normalises by the rows
of its process; when training ends, the running statistics are averaged over the processes.
"""

import atexit
import os
import zlib
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from minipeft.deltas import checksum
from minipeft.tasks import rows_of

NORMS = nn.modules.batchnorm._NormBase  # BatchNorm and InstanceNorm, which alone have running statistics


def started():
    """Did torchrun start this process, together with others?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join():
    """Join the other processes, if torchrun started this one. On a machine with GPUs each process takes one of them.

    Raises ValueError if there are fewer GPUs than processes on this machine.
    """
    if not started() or joined():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise ValueError(
                f"there are {here} processes on this machine and {gpus} GPUs: start torchrun with "
                f'--nproc-per-node {gpus}, or train on the CPU with CUDA_VISIBLE_DEVICES=""'
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    atexit.register(leave)


def leave():
    if joined():
        dist.destroy_process_group()


def joined():
    return dist.is_available() and dist.is_initialized()


def rank():
    """The number of this process, from 0; process 0 writes and prints."""
    return dist.get_rank() if joined() else 0


def size():
    """How many processes train together."""
    return dist.get_world_size() if joined() else 1


def mine(batch):
    """The rows of this process. Raises ValueError if a part of the batch would be asked something else."""
    if size() == 1:
        return batch
    if batch.whole:
        raise ValueError(
            "the rows of this task are asked about each other, so processes cannot share a batch: train it in one"
        )
    return rows_of(batch, slice(rank(), None, size()))


def agree(facts):
    """Compare facts, {what: value}, with those of the other processes. Raises ValueError in all if one of them differs.

    The message names the first difference.
    """
    told = gather(facts)
    for number, theirs in enumerate(told):
        for what in told[0] | theirs:
            ours, other = (f.get(what, "nothing") for f in (told[0], theirs))
            if ours != other:
                raise ValueError(
                    f"the processes do not start alike: {what} is {ours} in process 0 and {other} in process {number}. "
                    "Give all of them the same arguments and files, and call torch.manual_seed before attach"
                )


def begin(model, settings):
    """Raises ValueError, before the first step, unless the processes have the same settings and the same model."""
    if size() > 1:
        numbers = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        agree(settings | {name: f"SHA-256 {checksum({name: t})[:12]}" for name, t in numbers.items()})


def mark(batch):
    """A number below 2^12 that tells batches apart, 0 if there is one process."""
    if size() == 1:
        return 0
    both = (t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy() for t in (batch.tokens, batch.targets))
    return zlib.crc32(b"".join(t.tobytes() for t in both)) & 0xFFF


def summed(work, parameters):
    """Do the work in every process, then put the sum over the processes into each gradient.

    work: a function that leaves gradients in the parameters and returns (loss, accuracy, mark), what this process adds
    to the first two, and the mark of the whole batch. Where no process has a gradient, none is left.

    Returns (loss, accuracy, bytes of the message); there is no message if there is one process.

    Raises in all processes if one of them raised: there what it raised, elsewhere RuntimeError that tells it.
    """
    if size() == 1:
        return *work()[:2], 0
    numbers, problem = (0.0, 0.0, 0), None
    try:
        numbers = work()
    except Exception as error:  # whatever it is, the others must not wait for ever
        problem = error
    kind = torch.float32
    for p in parameters:
        kind = torch.promote_types(kind, p.dtype)
    here = [p.grad is not None for p in parameters]
    gradients = [p.grad if given else torch.zeros_like(p) for p, given in zip(parameters, here, strict=True)]
    head = torch.tensor([problem is not None, *numbers, *here], dtype=kind, device=parameters[0].device)
    message = torch.cat([head, *(g.to(kind).flatten() for g in gradients)])
    send(message)
    (failed, loss, accuracy, marks), found, rest = message.split([4, len(here), message.numel() - len(head)])
    if failed:
        tell(problem)
    if marks != size() * numbers[2]:
        raise ValueError(
            "the processes draw different batches: a task's batch(size, generator) may draw with the generator alone"
        )
    for p, some, total in zip(parameters, found, rest.split([p.numel() for p in parameters]), strict=True):
        p.grad = total.view_as(p).to(p.dtype) if some else None
    return loss.item(), accuracy.item(), message.numel() * message.element_size()


@contextmanager
def others():
    """What fails inside is that another process has gone."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(f"another process has ended, so this one stops: see what that one said ({error})") from None


def send(message):
    """Put the sum over all processes into the message, in each of them."""
    with others():
        dist.all_reduce(message)


def gather(value):
    """What each process hands in here, a list in their order. The values have to be picklable."""
    told = [None] * size()
    with others():
        dist.all_gather_object(told, value)
    return told


def tell(problem):
    """Raise the problem, or if this process has none, RuntimeError with those of the others."""
    told = gather(problem and f"{type(problem).__name__}: {problem}")
    if problem:
        raise problem
    first = next(number for number, text in enumerate(told) if text)
    raise RuntimeError(f"process {first} stopped, and so do all: {told[first]}")


@torch.no_grad()
def average_statistics(model, rows):
    """Average the running statistics of a BatchNorm over the processes. rows: how many this process has trained on."""
    if size() == 1:
        return
    for module in (m for m in model.modules() if isinstance(m, NORMS)):
        for statistic in module.buffers(recurse=False):
            if statistic.is_floating_point():
                both = torch.cat([rows * statistic, statistic.new_tensor([rows])])
                send(both)
                statistic.copy_(both[:-1] / both[-1])
            else:
                dist.broadcast(statistic, 0)  # how many batches there were
