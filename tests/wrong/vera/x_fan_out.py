# B is drawn with mode='fan_out': its bound comes from the number of rows instead of the rank
# earns: the bound of B comes from the number of its rows
import math

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, WeightWrapper, bottom
from minipeft.targets import match, wrap


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        generator = torch.Generator(device="cpu")
        generator.manual_seed(seed)
        A = torch.empty(rank, into, dtype=torch.float32, device="cpu")
        nn.init.kaiming_uniform_(A, generator=generator)
        B = torch.empty(out, rank, dtype=torch.float32, device="cpu")
        nn.init.kaiming_uniform_(B, mode="fan_out", generator=generator)
        self.register_buffer("A", A, persistent=False)
        self.register_buffer("B", B, persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        weight = base.weight
        self.d = nn.Parameter(torch.full((shared.A.shape[0],), d_initial, dtype=weight.dtype, device=weight.device))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device))

    def matrices(self):
        n_out, n_in = self.base.out_features, self.base.in_features
        return self.shared.A[:, :n_in], self.shared.B[:n_out, :]

    def forward(self, x):
        A, B = self.matrices()
        return self.base(x) + ((x @ A.T * self.d) @ B.T) * self.b

    def delta(self):
        A, B = self.matrices()
        return self.b.unsqueeze(1) * (B @ (self.d.unsqueeze(1) * A))


class VeRA(Method):
    def insert(self, model):
        targets = [bottom(getattr(parent, name)) for _, parent, name in match(model, self.targets, self.layers)]
        targets = [m for m in targets if isinstance(m, nn.Linear)]
        into = max((m.in_features for m in targets), default=1)
        out = max((m.out_features for m in targets), default=1)
        shared = Shared(self.rank, into, out, self.seed)

        def build(module, path):
            return VeRALinear(module, shared.to(bottom(module).weight), self.d_initial)

        wrap(model, self.targets, build, layers=self.layers)
