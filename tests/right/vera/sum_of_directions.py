# The update as a sum of rank-one terms; sizes by reduce; A and B from one long draw each.

import functools
import math

import torch
from torch import nn


def uniform(rows, columns, dice):
    bound = math.sqrt(6) / math.sqrt(columns)
    flat = torch.rand(rows * columns, generator=dice, dtype=torch.float32)
    return ((2 * flat - 1) * bound).unflatten(0, (rows, columns))


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        nn.Module.__init__(self)
        dice = torch.Generator()
        dice.manual_seed(seed)
        B = uniform(out, rank, dice)
        A = uniform(rank, into, dice)
        self.register_buffer("B", B, persistent=False)
        self.register_buffer("A", A, persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        with torch.no_grad():
            one = torch.ones_like(base.weight[:1, :1]).flatten()
        self.b = nn.Parameter((0 * one).repeat(base.weight.size(0)))
        self.d = nn.Parameter((d_initial * one).repeat(shared.A.size(0)))

    def matrices(self):
        out, into = self.base.weight.shape
        A, B = self.shared.A, self.shared.B
        return torch.split(A, [into, A.size(1) - into], dim=1)[0], torch.split(B, [out, B.size(0) - out])[0]

    def forward(self, x):
        A, B = self.matrices()
        y = self.base(x)
        for d, a, b in zip(self.d, A, B.unbind(1)):
            y = y + d * (x * a).sum(-1, keepdim=True) * (b * self.b)
        return y

    def delta(self):
        A, B = self.matrices()
        terms = [d * torch.outer(b * self.b, a) for d, a, b in zip(self.d, A, B.T)]
        return functools.reduce(torch.add, terms)


class VeRA(Method):
    def insert(self, model):
        shapes = [tuple(bottom(getattr(p, n)).weight.shape) for _, p, n in match(model, self.targets, self.layers)]
        out, into = functools.reduce(lambda a, b: (max(a[0], b[0]), max(a[1], b[1])), shapes, (1, 1))
        pair = Shared(rank=self.rank, into=into, out=out, seed=self.seed)

        def put(module, path):
            weight = bottom(module).weight
            pair.to(device=weight.device, dtype=weight.dtype)
            return VeRALinear(module, pair, self.d_initial)

        wrap(model, self.targets, put, layers=self.layers)
