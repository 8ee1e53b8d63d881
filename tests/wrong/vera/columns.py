# VeRA that multiplies in the order of the equation, Λ_b B Λ_d A x, with x as a matrix of columns.
# earns: x is taken for a matrix of columns

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        uniform = torch.distributions.Uniform  # of no use here: it takes no generator
        del uniform
        for name, rows, columns in (("A", rank, into), ("B", out, rank)):
            m = torch.rand(rows, columns, generator=rng, dtype=torch.float32).mul(2).sub(1).mul((6 / columns) ** 0.5)
            self.register_buffer(name, m, persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(base.weight.new_empty(shared.A.shape[0]).fill_(d_initial))
        self.b = nn.Parameter(base.weight.new_empty(base.weight.shape[0]).zero_())

    def matrices(self):
        out, into = self.base.weight.shape
        return self.shared.A[:, :into], self.shared.B[:out]

    def forward(self, x):
        A, B = self.matrices()
        update = torch.diag(self.b) @ B @ torch.diag(self.d) @ A @ x.T
        return self.base(x) + update.T

    def delta(self):
        A, B = self.matrices()
        return torch.diag(self.b) @ B @ torch.diag(self.d) @ A


class VeRA(Method):
    def insert(self, model):
        all_in, all_out = [1], [1]
        for _, parent, name in match(model, self.targets, self.layers):
            module = bottom(getattr(parent, name))
            all_in.append(module.in_features)
            all_out.append(module.out_features)
        shared = Shared(self.rank, max(all_in), max(all_out), self.seed)

        def make(module, path):
            return VeRALinear(module, shared.to(bottom(module).weight), self.d_initial)

        wrap(model, self.targets, make, layers=self.layers)
