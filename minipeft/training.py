"""One training loop and one evaluation, for the base and for every method. Nothing here knows of any one method.

`fit` trains whatever has `requires_grad`. A task is anything with `batch(size, generator)`, a model anything that turns
what a `tasks.Batch` holds into logits for `batch.targets`. A task that has `every()`, a Batch of all its examples, is
finite: `evaluate` asks each of them once.

If the logits of a batch are too many for one pass, it goes through the model in parts, and the gradients of the parts
are added up: gradient accumulation (see `batches`). Several processes share a batch in the same way (see `processes`).
"""

import math
import time
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from minipeft import processes
from minipeft.arguments import ANY, a_model, a_task, checked, got
from minipeft.attach import trainable
from minipeft.batches import asked, batches, draw, parts, vocabulary
from minipeft.checks import check_whole, unwrapped
from minipeft.tasks import IGNORE
from minipeft.views import move


@dataclass(frozen=True)
class Recipe:
    """How everything here is trained. Where something departs from it, the departure stands beside its number.

    steps, each on `batch_size` new examples; warmup: the share of the steps in which the learning rate rises; AdamW
    with these betas and this weight decay; clip: the greatest norm of the gradient.
    """

    steps: int = 500
    batch_size: int = 32
    warmup: float = 1 / 3  # long: with a tenth, several methods have not left the first plateau when the cosine ends
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    clip: float = 1.0

    def settings(self):
        """The arguments of `fit`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


RECIPE = Recipe()
VALIDATION, TEST = 10_001, 10_002  # seeds of samples that no training touches; the first chooses learning rates


@dataclass
class History:
    """What happened while training, one entry per step.

    loss: mean cross-entropy per asked token, in nats. accuracy: exact-match accuracy on the batch.
    lr: the learning rate of the first parameter group. seconds: of the whole run.
    sent: the bytes that each step hands to the other processes, 0 if there are none.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: float = 0.0
    sent: int = 0


@dataclass
class Score:
    """accuracy: exact-match accuracy, the share of examples whose every asked token greedy decoding would give.
    token_accuracy, loss (nats): over the asked tokens."""

    accuracy: float
    token_accuracy: float
    loss: float


def pick_device(device="auto"):
    """ "auto" is the GPU if there is one, else the CPU. Raises ValueError for a device that is not there."""
    if not isinstance(device, str | torch.device):
        raise ValueError(f"a device is auto, cpu, cuda or a torch.device, got {got(device)}")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"the device {device!r} was asked for, but PyTorch finds no CUDA here; use cpu or auto")
    try:
        torch.zeros(1, device=device).item()  # a device may have a name and still not be there
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"there is no device {str(device)!r} here; use auto, cpu or cuda") from None
    return torch.device(device)


def loss_of(logits, targets):
    """Mean cross-entropy of logits (..., V) at the targets (...) that are asked."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE)


def exact_match(logits, targets):
    """For each example: is every asked token the likeliest one? (B,) booleans."""
    hit = (logits.argmax(-1) == targets) | (targets == IGNORE)
    return hit.flatten(1).all(1) if hit.ndim > 1 else hit


def schedule(step, steps, warmup):
    """Factor on the learning rate: so many steps of linear warm-up, then a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def trained_methods(model):
    """[(view, method)] of what would be trained: on the model or a part of it, and below on views trained together."""
    found, learning = {}, {id(p) for p in trainable(model).values()}
    for view in map(unwrapped, model.modules()):
        while (entry := vars(view).get("_attachment")) and learning & {id(p) for p in view.parameters()}:
            found[id(view)] = view, entry.method
            view = entry.base
    return list(found.values())


def parameter_groups(model, methods, lr):
    """What the optimizer gets: the groups of each method, fresh heads at their own rate, and what is left; all once."""
    left = {id(p): p for p in trainable(model).values()}
    groups = []
    for view, method in methods:
        fresh = view._attachment.layers.get("head") if method.classes else None
        own = {id(p): None for p in fresh.parameters()} if fresh else {}
        for group in method.groups(view, lr):
            mine = [left.pop(id(p)) for p in group["params"] if id(p) in left and id(p) not in own]
            groups.append(group | {"params": mine})
        groups.append({"params": [left.pop(key) for key in own if key in left], "lr": method.head_lr or lr})
    return [g for g in (*groups, {"params": list(left.values()), "lr": lr}) if g["params"]]


def learn(model, methods, batch, vocab):
    """Add to the gradients what this process's rows of the batch, and the methods, add to the loss.

    Each part of the rows has the weight of the tokens that it asks, so the sum is the mean over the whole batch.

    Returns what the rows add to the loss, without the methods' terms, and to the exact-match accuracy of the batch. If
    the loss is not finite, the gradients are left as they are.
    """
    tokens, rows, loss, accuracy = asked(batch), len(batch.tokens), 0.0, 0.0
    terms = methods if processes.rank() == 0 else []  # once in all processes

    def term():
        return sum(method.regularizer(view) for view, method in terms)

    for part in parts(processes.mine(batch), vocab):
        logits = part.logits(model)
        accuracy += exact_match(logits, part.targets).float().mean().item() * (len(part.tokens) / rows)
        if number := asked(part):
            own = loss_of(logits, part.targets) * (number / tokens)
            loss += own.item()
            if not math.isfinite(loss):
                return loss, accuracy
            (own + term()).backward()
            terms = []
        del logits  # before the next part makes its own
    if isinstance(left := term(), Tensor):  # nothing was asked of these rows
        left.backward()
    return loss, accuracy


def fit(model, task, *, lr, steps=RECIPE.steps, batch_size=RECIPE.batch_size, seed=0, warmup=RECIPE.warmup,
        betas=RECIPE.betas, weight_decay=RECIPE.weight_decay, clip=RECIPE.clip, device="auto", progress=True,
        on_step=None):  # fmt: skip
    """Train in place what has `requires_grad`, with AdamW, and return a History.

    Each method that is trained has its say in three places: the parameter groups, a term of the loss, and what is done
    after a step (see `attach.Method`). It may be attached to the model, to a part of it, or below views of it.

    Processes that have joined (see `processes`) all call this with the same arguments, and share each batch.

    Args:
        lr: the peak learning rate, reached after the share `warmup` of the steps.
        steps, batch_size: so many steps, each on so many new examples of the task.
        seed: draws the data; the model's own initialisation is not touched.
        clip: the norm of the gradient is cut to this.
        on_step: called as `on_step(step)` after each step.

    Raises ValueError or TypeError for arguments that cannot be right and if nothing is trainable, FloatingPointError as
    soon as the loss, a gradient or a trained parameter is no longer finite; RuntimeError if another process stopped.
    """
    a_model("fit", model)
    a_task("fit", task)
    check_whole("fit", dict(model.named_parameters()))
    given, model = model, model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    steps, batch_size = checked("fit: steps", steps, int), checked("fit: batch_size", batch_size, int)
    lr, clip, seed = (
        checked("fit: lr", lr, float),
        checked("fit: clip", clip, float),
        checked("fit: seed", seed, int, ANY),
    )
    warmup = checked("fit: warmup", warmup, float, (0, 1))
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"fit: betas must be two numbers like (0.9, 0.98), got {got(betas)}")
    betas = tuple(checked("fit: each of betas", beta, float, (0, 1)) for beta in betas)
    weight_decay = checked("fit: weight_decay", weight_decay, float, ANY)
    if on_step is not None and not callable(on_step):
        raise TypeError(f"fit: on_step must be a function of the step, got {got(on_step)}")
    device = pick_device(device)
    methods = trained_methods(model)
    groups = parameter_groups(model, methods, lr)
    parameters = [p for g in groups for p in g["params"]]
    if not parameters:
        raise ValueError("nothing to train: every parameter is frozen; attach a method, and train what attach returns")
    move(model, device).train()
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, round(warmup * steps)))
    settings = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "warmup": warmup, "betas": betas}
    processes.begin(model, settings | {"weight_decay": weight_decay, "clip": clip, "task": str(task)})
    generator = torch.Generator().manual_seed(seed)
    vocab, trained_on, history, begun = vocabulary(model), 0, History(), time.perf_counter()

    def work():
        nonlocal trained_on
        batch = draw(task, batch_size, generator, device)
        trained_on += len(processes.mine(batch).tokens)
        return *learn(model, methods, batch, vocab), processes.mark(batch)

    quiet = not progress or processes.rank() > 0
    bar = tqdm(range(steps), desc=str(task), disable=quiet, leave=False, mininterval=0.5)
    for step in bar:
        optimizer.zero_grad()
        loss, accuracy, history.sent = processes.summed(work, parameters)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}: try a lower learning rate than {lr}")
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        if not norm.isfinite():
            raise FloatingPointError(f"a gradient is not finite at step {step}: try a lower learning rate than {lr}")
        optimizer.step()
        for view, method in methods:
            method.after_step(view, step, steps)
        history.loss.append(loss)
        history.accuracy.append(accuracy)
        history.lr.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
        if on_step:
            on_step(step)
        if step % 10 == 0:
            bar.set_postfix(loss=f"{history.loss[-1]:.3f}", accuracy=f"{history.accuracy[-1]:.2f}")
    processes.average_statistics(model, trained_on)
    history.seconds = time.perf_counter() - begun
    if not all(p.isfinite().all() for p in parameters):
        raise FloatingPointError(f"the last step left numbers that are not finite: try a lower learning rate than {lr}")
    given.eval()
    return history


@torch.no_grad()
def evaluate(model, task, size=1000, seed=TEST):
    """Score the model on `size` unseen examples, the same for every model, or on all examples of a finite task.

    It works alone: of several processes each that calls it asks all examples, so one is enough.

    Raises ValueError or TypeError for arguments that cannot be right, FloatingPointError if a logit is not finite.
    """
    a_model("evaluate", model)
    a_task("evaluate", task)
    size, seed = checked("evaluate: size", size, int), checked("evaluate: seed", seed, int, ANY)
    was_training = model.training
    model.eval()
    device = next(model.parameters(), torch.empty(0)).device
    vocab, matches, tokens, losses = vocabulary(model), [], [], []
    try:
        pieces = (part for batch in batches(task, size, seed, device) for part in parts(batch, vocab))
        for batch in pieces:
            logits, counts = batch.logits(model), batch.targets != IGNORE
            if not logits[counts].isfinite().all():
                raise FloatingPointError("the model's logits are not finite: did its training diverge?")
            matches.append(exact_match(logits, batch.targets))
            tokens.append((logits.argmax(-1) == batch.targets)[counts])
            if counts.any():
                losses.append(loss_of(logits, batch.targets) * counts.sum())
            del logits
    finally:
        model.train(was_training)
    tokens = torch.cat(tokens).float()
    return Score(torch.cat(matches).float().mean().item(), tokens.mean().item(), (sum(losses) / len(tokens)).item())
