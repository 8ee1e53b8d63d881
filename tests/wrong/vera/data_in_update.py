# VeRA whose forward reads d through `.data`: d is never trained.
# earns: d or b is taken out of the graph, so no gradient reaches it

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        A = torch.empty(rank, into, dtype=torch.float32)
        B = torch.empty(out, rank, dtype=torch.float32)
        torch.nn.init.kaiming_uniform_(A, nonlinearity="relu", generator=rng)
        torch.nn.init.kaiming_uniform_(B, nonlinearity="relu", generator=rng)
        self.register_buffer("A", A, False)
        self.register_buffer("B", B, False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(torch.full((shared.A.shape[0],), d_initial, dtype=base.weight.dtype))
        self.b = nn.Parameter(torch.zeros(base.weight.shape[0], dtype=base.weight.dtype))

    def matrices(self):
        out, into = self.base.weight.shape
        return self.shared.A[:, :into], self.shared.B[:out]

    def forward(self, x):
        A, B = self.matrices()
        lambda_d, lambda_b = torch.diag(self.d.data), torch.diag(self.b)
        return self.base(x) + x @ (lambda_b @ B @ lambda_d @ A).T

    def delta(self):
        A, B = self.matrices()
        return torch.diag(self.b) @ B @ torch.diag(self.d) @ A


class VeRA(Method):
    def insert(self, model):
        modules = [bottom(getattr(p, n)) for _, p, n in match(model, self.targets, self.layers)]
        into, out = 1, 1
        for m in modules:
            into = m.in_features if m.in_features > into else into
            out = m.out_features if m.out_features > out else out
        shared = Shared(self.rank, into, out, self.seed)
        wrap(
            model,
            self.targets,
            lambda m, path: VeRALinear(m, shared.to(bottom(m).weight), self.d_initial),
            layers=self.layers,
        )
