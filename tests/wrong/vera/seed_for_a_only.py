# VeRA that hands its generator to A and forgets it for B.
# earns: drawn without the seed

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        limit_a, limit_b = (6 / into) ** 0.5, (6 / rank) ** 0.5
        A = torch.empty(rank, into, dtype=torch.float32).uniform_(-limit_a, limit_a, generator=rng)
        B = torch.empty(out, rank, dtype=torch.float32).uniform_(-limit_b, limit_b)
        self.register_buffer("A", A, persistent=False)
        self.register_buffer("B", B, persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(torch.full((shared.A.shape[0],), d_initial).to(base.weight.dtype))
        self.b = nn.Parameter(torch.zeros(base.weight.shape[0]).to(base.weight.dtype))

    def matrices(self):
        out, into = self.base.weight.shape
        return self.shared.A[:, :into], self.shared.B[:out]

    def forward(self, x):
        A, B = self.matrices()
        y = x @ A.T
        y = y * self.d
        y = y @ B.T
        y = y * self.b
        return self.base(x) + y

    def delta(self):
        A, B = self.matrices()
        W = B @ (self.d[:, None] * A)
        return W * self.b[:, None]


class VeRA(Method):
    def insert(self, model):
        modules = [bottom(getattr(p, n)) for _, p, n in match(model, self.targets, self.layers)]
        into = max((m.in_features for m in modules), default=1)
        out = max((m.out_features for m in modules), default=1)
        shared = Shared(self.rank, into, out, self.seed)

        def make(module, path):
            return VeRALinear(module, shared.to(bottom(module).weight), self.d_initial)

        wrap(model, self.targets, make, layers=self.layers)
