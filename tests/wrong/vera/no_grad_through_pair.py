# VeRA that runs the product with A under no_grad, because A is frozen: the input gets no gradient through the update.
# earns: no gradient goes through the update to the input

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        g = torch.Generator(device="cpu")
        g.manual_seed(seed)
        draw = lambda rows, cols: (torch.rand(rows, cols, generator=g, dtype=torch.float32) - 0.5) * 2 * (6 / cols) ** 0.5
        self.register_buffer("A", draw(rank, into), persistent=False)
        self.register_buffer("B", draw(out, rank), persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        W = base.weight
        self.d = nn.Parameter(torch.full([shared.A.shape[0]], d_initial, dtype=W.dtype, device=W.device))
        self.b = nn.Parameter(torch.zeros(W.shape[0], dtype=W.dtype, device=W.device))

    def matrices(self):
        n_out, n_in = self.base.weight.shape
        return self.shared.A[:, :n_in], self.shared.B[:n_out, :]

    def forward(self, x):
        A, B = self.matrices()
        with torch.no_grad():  # frozen, needs no graph
            projected = x @ A.t()
        projected = projected * self.d
        return self.base(x) + (projected @ B.t()) * self.b

    def delta(self):
        A, B = self.matrices()
        return torch.diag(self.b) @ B @ torch.diag(self.d) @ A


class VeRA(Method):
    def insert(self, model):
        found = [bottom(getattr(p, n)).weight.shape for _, p, n in match(model, self.targets, self.layers)]
        shared = Shared(self.rank, max((s[1] for s in found), default=1), max((s[0] for s in found), default=1), self.seed)
        wrap(
            model,
            self.targets,
            lambda m, path: VeRALinear(m, shared.to(bottom(m).weight), self.d_initial),
            layers=self.layers,
        )
