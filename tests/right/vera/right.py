# right
from functools import partial

import torch
from torch import nn

from minipeft.attach import Method, WeightWrapper, bottom
from minipeft.targets import match, wrap


def drawn(rows, columns, dice):
    bound = (6 / columns) ** 0.5
    return torch.empty(rows, columns, dtype=torch.float32, device="cpu").uniform_(-bound, bound, generator=dice)


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        dice = torch.Generator("cpu")
        dice.manual_seed(seed)
        self.register_buffer("A", drawn(rank, into, dice), persistent=False)
        self.register_buffer("B", drawn(out, rank, dice), persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        out, _ = base.weight.shape
        rank, _ = shared.A.shape
        like = dict(dtype=base.weight.dtype, device=base.weight.device)
        self.b = nn.Parameter(torch.zeros(out, **like))
        self.d = nn.Parameter(torch.ones(rank, **like).mul_(d_initial))
        self.shared = shared

    def matrices(self):
        out, into = self.base.weight.shape
        return self.shared.A.narrow(1, 0, into), self.shared.B.narrow(0, 0, out)

    def forward(self, x):
        A, B = self.matrices()
        update = torch.einsum("...i,ri,r,or,o->...o", x, A, self.d, B, self.b)
        return torch.add(update, self.base(x))

    def delta(self):
        A, B = self.matrices()
        return torch.diag(self.b) @ B @ torch.diag(self.d) @ A


class VeRA(Method):
    def insert(self, model):
        into = out = 1
        linears = []
        for _, parent, name in match(model, self.targets, self.layers):
            module = bottom(getattr(parent, name))
            if isinstance(module, nn.Linear):
                linears.append(module)
                into, out = max(into, module.in_features), max(out, module.out_features)
        pair = Shared(self.rank, into, out, self.seed)
        for module in linears:
            pair = pair.to(device=module.weight.device, dtype=module.weight.dtype)
        make = partial(VeRALinear, shared=pair, d_initial=self.d_initial)
        wrap(model, self.targets, lambda module, path: make(module), layers=self.layers)
