"""A change of known rank in the head: some letters take each other's places in what the model writes.

`PlantedHead("ab", "cd")` makes the model write b for a, a for b, d for c and c for d. Only rows of the head's weight
change places, so the change ΔW is known exactly, and with it its rank. A method on the head has to find it from the
logits alone. What comes before the head is frozen, so it is computed once; that makes a run short.
"""

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import trainable
from minipeft.bases import base
from minipeft.tasks import Mixture, encode
from minipeft.training import schedule

TOKENS, BATCH, WARMUP = 200, 512, 20  # rows of the mixture in each of six draws; states in a step; steps


class PlantedHead:
    """Letters that change places in the head. cycles: "ab" exchanges two, "abc" makes b of a, c of b and a of c.

    change     ΔW (60, 64), what is planted
    rank       of it
    bound      bound(r): the least error that any matrix of rank r leaves, as a share of the base's (Eckart and Young)
    imitate    imitate(method, seed): trains a method on the head; returns its ΔW and the share of the error it leaves
    """

    def __init__(self, *cycles):
        self.model = base()
        self.old = self.model.head.weight.detach()
        order = torch.arange(len(self.old))
        for cycle in cycles:
            here = encode(f":{cycle}")[1:]
            order[here] = here.roll(-1)
        self.change = self.old[order] - self.old
        self.rank = int(torch.linalg.matrix_rank(self.change))
        states = self.states()
        self.train, self.test = states.chunk(2)

    @torch.no_grad()
    def states(self):
        """What arrives at the head (N, 64), for tokens of the pretraining mixture."""
        trunk, generator = base(), torch.Generator().manual_seed(0)
        trunk.head = nn.Identity()
        return torch.cat([trunk(Mixture().batch(TOKENS, generator).tokens).flatten(0, 1) for _ in range(6)])

    def bound(self, rank):
        energy = torch.linalg.svdvals(self.test @ self.change.T) ** 2
        return (energy[rank:].sum() / energy.sum()).item()

    def imitate(self, method, seed, lr=3e-2, steps=200):
        torch.manual_seed(seed)
        view = method.attach(self.model)
        optimizer = torch.optim.Adam(trainable(view).values(), lr=lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, WARMUP))
        for _ in range(steps):
            some = self.train[torch.randint(len(self.train), (BATCH,))]
            loss = self.distance(view.head, some)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            left = self.distance(view.head, self.test) / self.distance(self.model.head, self.test)
            identity = torch.eye(self.old.shape[1])
            return (view.head(identity) - self.model.head(identity)).T, left.item()

    def distance(self, head, states):
        """Mean squared difference between the head's logits and those of the planted one."""
        return F.mse_loss(head(states), self.model.head(states) + states @ self.change.T)
