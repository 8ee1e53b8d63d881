"""A teacher with changes of known rank, and a student that imitates it.

`plant` changes a few weights of the shipped base by matrices whose rank is known. `imitate` attaches a method to the
bare base and trains it on the teacher's logits, so one can see whether the method puts its rank where it is needed.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.bases import base
from minipeft.tasks import Mixture
from minipeft.training import RECIPE, TEST, schedule


def inputs_of(model, paths, tokens):
    """What reaches the modules with these dotted names, {path: (N, in)}, when the model reads `tokens`."""
    found = {}

    def noting(path):
        def note(module, inputs):
            found[path] = inputs[0].flatten(0, -2)

        return note

    hooks = [model.get_submodule(path).register_forward_pre_hook(noting(path)) for path in paths]
    model(tokens)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def plant(places, seed):
    """The shipped base with a change in each of `places`, {dotted name: (rank, size)}.

    A change reads the directions along which the inputs of its matrix vary most, each scaled to the same variance.
    It writes into random directions. size: the norm of what it adds, relative to that of what the matrix puts out.
    """
    teacher, generator = base(), torch.Generator().manual_seed(seed)
    inputs = inputs_of(teacher, places, Mixture().batch(256, generator).tokens)
    for path, (rank, size) in places.items():
        W, x = teacher.get_submodule(path).weight, inputs[path]
        _, spread, V = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        out = torch.linalg.qr(torch.randn(len(W), rank, generator=generator))[0]
        change = out @ (V[:rank] / spread[:rank, None])
        W += change * size * (x @ W.T).norm() / (x @ change.T).norm()
    return teacher


@torch.no_grad()
def distance(student, teacher, seed=TEST):
    """Mean squared difference of the logits on 500 unseen examples, which the seed draws."""
    tokens = Mixture().batch(500, torch.Generator().manual_seed(seed)).tokens
    return F.mse_loss(student(tokens), teacher(tokens)).item()


@cache
def teacher_and_gap(places, seed):
    teacher = plant(dict(places), seed)
    return teacher, distance(base(), teacher)


def trained(method, places, lr, seed, recipe=RECIPE):
    """Train a student to imitate the teacher of `places`; the seed draws teacher, start and data. Returns both."""
    teacher, gap = teacher_and_gap(tuple(places.items()), seed)
    torch.manual_seed(seed)
    student = method.attach(base())
    groups = method.groups(student, lr)
    optimizer = torch.optim.AdamW(groups, betas=recipe.betas, weight_decay=recipe.weight_decay)
    warmup = round(recipe.warmup * recipe.steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, recipe.steps, warmup))
    generator = torch.Generator().manual_seed(seed)
    for step in range(recipe.steps):
        tokens = Mixture().batch(recipe.batch_size, generator).tokens
        with torch.no_grad():
            wanted = teacher(tokens)
        loss = F.mse_loss(student(tokens), wanted) / gap
        optimizer.zero_grad()
        (loss + method.regularizer(student)).backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], recipe.clip)
        optimizer.step()
        method.after_step(student, step, recipe.steps)
        scheduler.step()
    return student, teacher


def imitate(method, places, lr, seed, recipe=RECIPE):
    """The student that `trained` gives, and the error that it leaves, as a share of the bare base's."""
    student, teacher = trained(method, places, lr, seed, recipe)
    return student, distance(student, teacher) / distance(base(), teacher)
