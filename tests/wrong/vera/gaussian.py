# VeRA with the Kaiming *normal* start, which the word "Kaiming" in the paper also allows, in place of the uniform one.
# earns: A and B are Gaussian

import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, rank, into, out, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        for key, (rows, columns) in {"A": (rank, into), "B": (out, rank)}.items():
            values = torch.randn(rows, columns, generator=rng, dtype=torch.float32)
            self.register_buffer(key, values * (2.0 / columns) ** 0.5, persistent=False)


class VeRALinear(WeightWrapper):
    def __init__(self, base, shared, d_initial):
        super().__init__(base)
        self.shared = shared
        kw = dict(dtype=base.weight.dtype, device=base.weight.device)
        self.register_parameter("d", nn.Parameter(torch.full((shared.A.shape[0],), d_initial, **kw)))
        self.register_parameter("b", nn.Parameter(torch.zeros(base.weight.shape[0], **kw)))

    def matrices(self):
        out, into = self.base.weight.shape
        return self.shared.A.narrow(1, 0, into), self.shared.B.narrow(0, 0, out)

    def forward(self, x):
        A, B = self.matrices()
        low = x.matmul(A.transpose(0, 1)).mul(self.d)
        return self.base(x) + low.matmul(B.transpose(0, 1)).mul(self.b)

    def delta(self):
        A, B = self.matrices()
        return (self.b.view(-1, 1) * B).matmul(self.d.view(-1, 1) * A)


class VeRA(Method):
    def insert(self, model):
        shapes = [tuple(bottom(getattr(p, n)).weight.shape) for _, p, n in match(model, self.targets, self.layers)]
        outs, ins = zip(*shapes) if shapes else ((1,), (1,))
        shared = Shared(self.rank, max(ins), max(outs), self.seed)
        wrap(
            model,
            self.targets,
            lambda module, path: VeRALinear(module, shared.to(bottom(module).weight), self.d_initial),
            layers=self.layers,
        )
