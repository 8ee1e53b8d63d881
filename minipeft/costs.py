"""What a method costs: parameters, gradients, optimizer state, activations, time. First predicted, then measured.

Bytes are counted in tensors of the model, so they hold on any machine; seconds are the reader's own. A view is weighed
with what it shares with its base; what only the base holds (its weights, with full fine-tuning) is not counted.
"""

import math
import os
import statistics
import time
from dataclasses import dataclass
from functools import partial

import torch

from minipeft.arguments import a_model, checked, got
from minipeft.attach import trainable
from minipeft.deltas import trained
from minipeft.tasks import Batch
from minipeft.training import loss_of


@dataclass
class Memory:
    """Bytes of one training step. weights: with buffers. activations: what the forward keeps for the backward pass."""

    weights: int
    gradients: int
    optimizer: int
    activations: int = 0

    @property
    def total(self):
        return self.weights + self.gradients + self.optimizer + self.activations


def tensors(model):
    """What a model holds: weights, the codes and scales of quantized ones, buffers."""
    return [*model.parameters(), *model.buffers()]


def predict(model):
    """Memory from counting alone, for Adam in the model's own precision (activations left out).

    Every weight is stored; only what is trained has a gradient and Adam's two moments.
    """
    a_model("predict", model)
    weights = sum(t.numel() * t.element_size() for t in tensors(model))
    gradients = sum(p.numel() * p.element_size() for p in trainable(model).values())
    return Memory(weights, gradients, optimizer=2 * gradients)


def measure(model, batch, lr=1e-3):
    """Memory of one real step of Adam on `batch`, found by weighing every tensor. The model is left as it was.

    Activations are the tensors that autograd saves, each storage once, weights not counted.
    """
    a_model("measure", model)
    batch, parameters = beside(batch, model), list(trainable(model).values())
    before = [p.detach().clone() for p in parameters]
    own = {t.untyped_storage().data_ptr() for t in tensors(model)}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training = model.training
    model.train()
    optimizer = torch.optim.Adam(parameters, lr=lr)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(batch.logits(model), batch.targets)
    loss.backward()
    optimizer.step()
    moments = [t for state in optimizer.state.values() for t in state.values() if t.numel() > 1]
    memory = Memory(
        weights=sum(t.numel() * t.element_size() for t in tensors(model)),
        gradients=sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None),
        optimizer=sum(t.numel() * t.element_size() for t in moments),
        activations=sum(saved.values()),
    )
    optimizer.zero_grad()
    with torch.no_grad():
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    model.train(was_training)
    return memory


def latency(models, batch, repeats=100):
    """Milliseconds of one forward pass, {name: (lower quartile, median, upper quartile)}; models: {name: model}."""
    passes = {name: partial(forward, model, beside(batch, model)) for name, model in models.items()}
    return taking_turns(passes, checked("latency: repeats", repeats, int, (2, math.inf)))


def training_time(models, batch, repeats=50):
    """Milliseconds of one training step: forward, backward, AdamW. What it is given and returns is as for `latency`.

    Those of the processor, where the system counts them, because other work can interrupt a step. The
    learning rate is 0, so the models stay as they are.
    """
    steps = {name: partial(step, model, beside(batch, model), adam(model)) for name, model in models.items()}
    before = {name: model.training for name, model in models.items()}
    for model in models.values():
        model.train()
    clock = time.perf_counter if os.name == "nt" else time.process_time
    times = taking_turns(steps, checked("training_time: repeats", repeats, int, (2, math.inf)), clock)
    for name, model in models.items():
        model.train(before[name])
        model.zero_grad()
    return times


@torch.no_grad()
def forward(model, batch):
    batch.logits(model)


def adam(model):
    return torch.optim.AdamW(trainable(model).values(), lr=0.0, weight_decay=0.0)


def step(model, batch, optimizer):
    loss = loss_of(batch.logits(model), batch.targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def taking_turns(work, repeats, clock=time.perf_counter):
    """Milliseconds of each function, {name: quartiles}. They take turns, so that what else runs hits them alike."""
    times = {name: [] for name in work}
    for repeat in range(repeats + 3):
        for name, function in work.items():
            begun = clock()
            function()
            if repeat >= 3:  # the first ones warm up
                times[name].append(1000 * (clock() - begun))
    return {name: tuple(statistics.quantiles(values, n=4)) for name, values in times.items()}


def beside(batch, model):
    """The batch on the device of the model. Raises TypeError if it is none."""
    if not isinstance(batch, Batch):
        raise TypeError(f"expected a batch, got {got(batch)}: task.batch(32, torch.Generator()) draws one")
    return batch.to(next(model.parameters(), torch.empty(0)).device)


def delta_bytes(model):
    """Bytes of the attached method's tensors: what a task adds on disk, but for a header of a kilobyte or so."""
    return sum(t.numel() * t.element_size() for t in trained(model).values())
