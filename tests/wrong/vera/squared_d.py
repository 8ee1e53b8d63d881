# VeRA that puts Λ_d on both sides of the product, on A and once more before B: d counts twice.
# earns: d or b counts twice

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        pair = {"A": torch.empty(rank, into, dtype=torch.float32), "B": torch.empty(out, rank, dtype=torch.float32)}
        for name, matrix in pair.items():
            self.register_buffer(name, nn.init.kaiming_uniform_(matrix, generator=rng), persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(base.weight.new_tensor([d_initial] * shared.A.shape[0]))
        self.b = nn.Parameter(base.weight.new_tensor([0.0] * base.weight.shape[0]))

    def matrices(self):
        out, into = self.base.weight.shape
        return self.shared.A[:, :into], self.shared.B[:out]

    def forward(self, x):
        A, B = self.matrices()
        down = self.d[:, None] * A
        up = self.b[:, None] * B * self.d
        return self.base(x) + x @ down.T @ up.T

    def delta(self):
        A, B = self.matrices()
        return (self.b[:, None] * B * self.d) @ (self.d[:, None] * A)


class VeRA(Method):
    def insert(self, model):
        modules = [bottom(getattr(p, n)) for _, p, n in match(model, self.targets, self.layers)]
        sizes = [(m.in_features, m.out_features) for m in modules] or [(1, 1)]
        shared = Shared(self.rank, max(s[0] for s in sizes), max(s[1] for s in sizes), self.seed)

        def make(module, path):
            return VeRALinear(module, shared.to(bottom(module).weight), self.d_initial)

        wrap(model, self.targets, make, layers=self.layers)
