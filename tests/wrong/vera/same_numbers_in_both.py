# VeRA whose A and B are drawn by two generators with the same seed: B holds the numbers of A again.
# earns: B holds the same random numbers as A

import math

import torch
from torch import nn


def kaiming(shape, seed):
    bound = math.sqrt(6.0 / shape[-1])
    rng = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=rng)


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        self.register_buffer("A", kaiming((rank, into), seed), persistent=False)
        self.register_buffer("B", kaiming((out, rank), seed), persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        r, out = shared.A.size(0), base.weight.size(0)
        self.d = nn.Parameter(torch.full((r,), float(d_initial)).to(base.weight))
        self.b = nn.Parameter(torch.zeros(out).to(base.weight))

    def matrices(self):
        return self.shared.A[..., : self.base.weight.size(1)], self.shared.B[: self.base.weight.size(0)]

    def forward(self, x):
        return self.base(x) + x @ self.delta().T

    def delta(self):
        A, B = self.matrices()
        return self.b.unsqueeze(1) * (B @ (self.d.unsqueeze(1) * A))


class VeRA(Method):
    def insert(self, model):
        wide = tall = 1
        for _, parent, name in match(model, self.targets, self.layers):
            W = bottom(getattr(parent, name)).weight
            wide, tall = max(wide, W.size(1)), max(tall, W.size(0))
        pair = Shared(self.rank, wide, tall, self.seed)
        wrap(
            model,
            self.targets,
            lambda module, path: VeRALinear(module, pair.to(bottom(module).weight), self.d_initial),
            layers=self.layers,
        )
