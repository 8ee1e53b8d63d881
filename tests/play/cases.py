"""Fixed cases through PyTorch, for the engine of the playground to repeat: a start, examples, and what comes out."""

from dataclasses import asdict

import torch

from minipeft.attach import trainable
from minipeft.bases import base
from minipeft.deltas import trained
from minipeft.methods import Full, LoRA, PrefixTuning, PromptTuning
from minipeft.tasks import IGNORE, task
from minipeft.training import RECIPE, loss_of

SIX = ("q", "k", "v", "o", "up", "down")
METHODS = {
    "nothing": None,
    "prompt": PromptTuning(length=4),
    "LoRA on q and v": LoRA(rank=4),
    "LoRA on all six": LoRA(rank=4, targets=SIX),
    "prefix": PrefixTuning(length=4),
    "full": Full(),
}


def plain(tensors):
    return {name: {"shape": list(t.shape), "data": t.detach().flatten().tolist()} for name, t in tensors.items()}


def asked(batch):
    return {
        "B": len(batch.tokens),
        "tokens": batch.tokens.flatten().tolist(),
        "targets": batch.targets[batch.targets != IGNORE].tolist(),
    }


def case(method, goal="reverse+violet", seed=1):
    """Logits, loss and gradients of five examples. LoRA's B is not zero, so that A has a gradient too."""
    torch.manual_seed(seed)
    view = method.attach(base()) if method else base()
    parameters = trained(view)
    with torch.no_grad():
        for name in parameters:
            if name.endswith(".B"):
                parameters[name].normal_(std=0.02)
    batch = task(goal).batch(5, torch.Generator().manual_seed(seed))
    logits = view(batch.tokens)
    loss = loss_of(logits, batch.targets)
    if method:
        loss.backward()
    return {
        "method": type(method).__name__,
        "configuration": asdict(method) if method else {},
        "start": {} if isinstance(method, Full) else plain(parameters),
        "batch": asked(batch),
        "logits": logits[:, -7:].flatten().tolist(),
        "loss": loss.item(),
        "gradients": plain({name: p.grad for name, p in parameters.items()}),
    }


def run(steps=40, lr=0.03, seed=2):
    """A whole training: a prompt on new examples at every step, without a schedule."""
    torch.manual_seed(seed)
    view = PromptTuning(length=4).attach(base())
    start, draw = plain(trained(view)), torch.Generator().manual_seed(seed)
    batches = [task("reverse+blue").batch(16, draw) for _ in range(steps)]
    parameters = list(trainable(view).values())
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=RECIPE.betas, weight_decay=0.0)
    losses = []
    for batch in batches:
        loss = loss_of(view(batch.tokens), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, RECIPE.clip)
        optimizer.step()
        losses.append(loss.item())
    return {
        "lr": lr,
        "start": start,
        "batches": [asked(batch) for batch in batches],
        "losses": losses,
        "end": plain(trained(view)),
    }
