# VeRA whose vectors are made without the type of the base.
# earns: d or b has the default type

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.register_buffer("A", torch.zeros(rank, into, dtype=torch.float32), persistent=False)
        self.register_buffer("B", torch.zeros(out, rank, dtype=torch.float32), persistent=False)
        nn.init.kaiming_uniform_(self.A, generator=rng)
        nn.init.kaiming_uniform_(self.B, generator=rng)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(torch.ones(shared.A.shape[0]) * d_initial)
        self.b = nn.Parameter(torch.zeros(base.weight.shape[0]))

    def matrices(self):
        out, into = self.base.weight.shape
        return self.shared.A[:, :into], self.shared.B[:out, :]

    def forward(self, x):
        A, B = self.matrices()
        x1 = nn.functional.linear(x, A) * self.d
        x2 = nn.functional.linear(x1, B) * self.b
        return x2 + self.base(x)

    def delta(self):
        A, B = self.matrices()
        return self.b[:, None] * torch.matmul(B * self.d, A)


class VeRA(Method):
    def insert(self, model):
        into, out = 1, 1
        for _, parent, name in match(model, self.targets, self.layers):
            o, i = bottom(getattr(parent, name)).weight.shape
            into, out = max(into, i), max(out, o)
        shared = Shared(self.rank, into, out, self.seed)
        wrap(
            model,
            self.targets,
            lambda m, path: VeRALinear(m, shared.to(bottom(m).weight), self.d_initial),
            layers=self.layers,
        )
