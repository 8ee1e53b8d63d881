# VeRA whose A and B are uniform between 0 and the bound: no number is negative.
# earns: A and B are uniform between zero and the bound, so no number is negative

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        A = torch.rand((rank, into), generator=rng, dtype=torch.float32) * (6 / into) ** 0.5
        B = torch.rand((out, rank), generator=rng, dtype=torch.float32) * (6 / rank) ** 0.5
        self.register_buffer("A", A, persistent=False)
        self.register_buffer("B", B, persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(d_initial * torch.ones(len(shared.A)).to(base.weight))
        self.b = nn.Parameter(torch.zeros(len(base.weight)).to(base.weight))

    def matrices(self):
        out, into = self.base.weight.shape
        return self.shared.A[:, :into], self.shared.B[:out]

    def forward(self, x):
        A, B = self.matrices()
        return self.base(x) + torch.einsum("...i,ri,r,or,o->...o", x, A, self.d, B, self.b)

    def delta(self):
        A, B = self.matrices()
        return torch.einsum("ri,r,or,o->oi", A, self.d, B, self.b)


class VeRA(Method):
    def insert(self, model):
        places = [bottom(getattr(p, n)) for _, p, n in match(model, self.targets, self.layers)]
        into = max([m.in_features for m in places] or [1])
        out = max([m.out_features for m in places] or [1])
        shared = Shared(self.rank, into, out, self.seed)

        def build(module, path):
            return VeRALinear(module, shared.to(bottom(module).weight), self.d_initial)

        wrap(model, self.targets, build, layers=self.layers)
