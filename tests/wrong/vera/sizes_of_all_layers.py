# VeRA that takes the sizes of A and B from the targets in every layer, also from those that `layers` leaves out.
# earns: targets that `layers` leaves out decide how large A and B are

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        for name, shape in zip("AB", [(rank, into), (out, rank)]):
            limit = (6 / shape[1]) ** 0.5
            numbers = 2 * limit * torch.rand(shape, generator=rng, dtype=torch.float32) - limit
            self.register_buffer(name, numbers, persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(torch.full_like(shared.A[:, 0], d_initial, dtype=base.weight.dtype))
        self.b = nn.Parameter(torch.zeros_like(base.weight[:, 0]))

    def matrices(self):
        return self.shared.A[:, : self.in_features], self.shared.B[: self.out_features, :]

    def forward(self, x):
        A, B = self.matrices()
        return self.base(x) + ((x @ A.T) * self.d @ B.T) * self.b

    def delta(self):
        A, B = self.matrices()
        return (self.b * (B @ (self.d * A.T).T).T).T


class VeRA(Method):
    def insert(self, model):
        everyone = [bottom(getattr(p, n)) for _, p, n in match(model, self.targets)]
        shared = Shared(
            self.rank, max(m.in_features for m in everyone), max(m.out_features for m in everyone), self.seed
        )
        wrap(
            model,
            self.targets,
            lambda m, path: VeRALinear(m, shared.to(bottom(m).weight), self.d_initial),
            layers=self.layers,
        )
