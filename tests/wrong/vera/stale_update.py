# VeRA that computes its update once, when the layer is made, and adds this product ever after.
# earns: the update is computed once and kept

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        A, B = (torch.empty(s, dtype=torch.float32) for s in ((rank, into), (out, rank)))
        for m in (A, B):
            m.uniform_(-((6 / m.shape[1]) ** 0.5), (6 / m.shape[1]) ** 0.5, generator=rng)
        self.register_buffer("A", A, persistent=False)
        self.register_buffer("B", B, persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(base.weight.new_ones(shared.A.shape[0]) * d_initial)
        self.b = nn.Parameter(base.weight.new_zeros(base.weight.shape[0]))
        self._ready = None

    def matrices(self):
        return self.shared.A[:, : self.base.weight.shape[1]], self.shared.B[: self.base.weight.shape[0]]

    def forward(self, x):
        return self.base(x) + x @ self.delta().T

    def delta(self):
        if self._ready is None:
            A, B = self.matrices()
            self._ready = torch.diag(self.b) @ B @ torch.diag(self.d) @ A
        return self._ready


class VeRA(Method):
    def insert(self, model):
        linears = [bottom(getattr(p, n)) for _, p, n in match(model, self.targets, self.layers)]
        shared = Shared(
            self.rank,
            max((m.weight.shape[1] for m in linears), default=1),
            max((m.weight.shape[0] for m in linears), default=1),
            self.seed,
        )

        def make(module, path):
            return VeRALinear(module, shared.to(bottom(module).weight), self.d_initial)

        wrap(model, self.targets, make, layers=self.layers)
