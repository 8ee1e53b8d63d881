# VeRA that forms W + ΔW in forward and multiplies by that: the bias is lost.
# earns: the bias of the frozen layer is lost

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        make = lambda *shape: nn.init.kaiming_uniform_(torch.empty(*shape, dtype=torch.float32), generator=rng)
        self.register_buffer("A", make(rank, into), persistent=False)
        self.register_buffer("B", make(out, rank), persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(torch.full((shared.A.shape[0],), d_initial).type_as(base.weight))
        self.b = nn.Parameter(torch.zeros(base.weight.shape[0]).type_as(base.weight))

    def matrices(self):
        out, into = self.base.weight.shape
        return self.shared.A[:, :into], self.shared.B[:out]

    def forward(self, x):
        adapted = self.base.weight + self.delta()
        return x @ adapted.mT

    def delta(self):
        A, B = self.matrices()
        return self.b[:, None] * B @ (A * self.d[:, None])


class VeRA(Method):
    def insert(self, model):
        found = [bottom(getattr(p, n)) for _, p, n in match(model, self.targets, self.layers)]
        into = max((m.in_features for m in found), default=1)
        out = max((m.out_features for m in found), default=1)
        shared = Shared(self.rank, into, out, self.seed)
        wrap(
            model,
            self.targets,
            lambda m, path: VeRALinear(m, shared.to(bottom(m).weight), self.d_initial),
            layers=self.layers,
        )
