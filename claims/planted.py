"""A change of known rank, planted in the base: how much of it does a method find again?

The teacher is the shipped base with random changes of low rank in some of its matrices. The student is the base with a
method attached, and it learns the teacher's logits on the pretraining mixture.
"""

import torch
import torch.nn.functional as F

from minipeft.bases import base
from minipeft.methods.adalora import ranks
from minipeft.tasks import Mixture
from minipeft.training import RECIPE, TEST, VALIDATION, schedule

DIVERGED = 100.0


@torch.no_grad()
def teacher_of(planted, seed):
    """The base with a change in each place of `planted`, [(path, rank, size)].

    A change reads the directions along which the inputs of its matrix vary most, each scaled to the same variance.
    It writes into random directions. size: the norm of what it adds, relative to that of what the matrix puts out.
    """
    teacher, inputs = base(), {}
    hooks = [
        teacher.get_submodule(path).register_forward_pre_hook(lambda _, x, path=path: inputs.update({path: x[0]}))
        for path, *_ in planted
    ]
    generator = torch.Generator().manual_seed(seed)
    teacher(Mixture().batch(256, generator).tokens)
    for hook in hooks:
        hook.remove()
    for path, rank, size in planted:
        W, x = teacher.get_submodule(path).weight, inputs[path].flatten(0, 1)
        _, spread, V = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        out = torch.linalg.qr(torch.randn(len(W), rank, generator=generator))[0]
        change = out @ (V[:rank] / spread[:rank, None])
        W += change * size * (x @ W.T).norm() / (x @ change.T).norm()
    return teacher


@torch.no_grad()
def distance(student, teacher, seed):
    """Mean squared difference of the logits on 500 unseen examples."""
    tokens = Mixture().batch(500, torch.Generator().manual_seed(seed)).tokens
    return F.mse_loss(student(tokens), teacher(tokens)).item()


def imitate(method, planted, lr, seed, recipe=RECIPE):
    """Train a student to imitate the teacher that `planted` describes. The seed draws teacher, start and data.

    error        mean squared error of the logits on unseen examples, as a share of the bare base's; at most 100
    validation   the same on other examples; it chooses learning rates. None if training diverged
    ranks        with AdaLoRA, {path: rank} of what it kept
    """
    teacher = teacher_of(planted, seed)
    whole = {name: distance(base(), teacher, name) for name in (TEST, VALIDATION)}
    torch.manual_seed(seed)
    student = method.attach(base())
    groups = method.groups(student, lr)
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=recipe.betas, weight_decay=recipe.weight_decay)
    warmup = round(recipe.warmup * recipe.steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, recipe.steps, warmup))
    generator = torch.Generator().manual_seed(seed)
    for step in range(recipe.steps):
        tokens = Mixture().batch(recipe.batch_size, generator).tokens
        with torch.no_grad():
            wanted = teacher(tokens)
        loss = F.mse_loss(student(tokens), wanted) / whole[TEST]
        optimizer.zero_grad()
        (loss + method.regularizer(student)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        method.after_step(student, step, recipe.steps)
        scheduler.step()
    left = {name: distance(student, teacher, name) / whole[name] for name in whole}
    if not all(value < DIVERGED for value in left.values()):  # nor is what is not a number
        return {"error": DIVERGED, "validation": None, "ranks": {}}
    found = {path: rank for path, rank in ranks(student).items() if rank}
    return {"error": left[TEST], "validation": left[VALIDATION], "ranks": found}
