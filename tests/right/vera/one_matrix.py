# The update always by way of the whole ΔW, as einsum; the parameters made from NumPy.

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        dice = torch.Generator("cpu").manual_seed(seed)

        def draw(name, *shape):
            m = torch.empty(*shape, dtype=torch.float32)
            m.uniform_(-1.0, 1.0, generator=dice).mul_(np.sqrt(6.0 / shape[1]))
            self.register_buffer(name, m, persistent=False)

        draw("A", rank, into)
        draw("B", out, rank)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        W = base.weight
        self.d = nn.Parameter(torch.from_numpy(np.full(shared.A.shape[0], d_initial)).to(W))
        self.b = nn.Parameter(torch.from_numpy(np.zeros(W.shape[0])).to(W))

    def matrices(self):
        rows, columns = torch.arange(self.base.weight.shape[0]), torch.arange(self.base.weight.shape[1])
        return self.shared.A.index_select(1, columns), self.shared.B.index_select(0, rows)

    def forward(self, x):
        return torch.add(self.base(x), F.linear(x, self.delta()))

    def delta(self):
        A, B = self.matrices()
        return torch.einsum("ri,r,or,o->oi", A, self.d, B, self.b)


class VeRA(Method):
    def insert(self, model):
        into = out = 1
        for _, parent, name in match(model, self.targets, self.layers):
            out = max(out, bottom(getattr(parent, name)).out_features)
            into = max(into, bottom(getattr(parent, name)).in_features)
        shared, made = Shared(self.rank, into, out, self.seed), None

        def make(module, path):
            nonlocal made
            if made is None:
                made = shared.to(bottom(module).weight)
            return VeRALinear(module, made, self.d_initial)

        wrap(model, self.targets, make, layers=self.layers)
