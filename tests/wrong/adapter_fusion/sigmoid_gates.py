# AdapterFusion whose α are sigmoids: each adapter is switched on and off by itself.
# earns: each adapter has a gate of its own

import torch
import torch.nn.functional as F
from torch import nn


class Fusion(nn.Module):
    def __init__(self, like, adapters, size):
        super().__init__()
        d = len(like)
        shapes = dict(D=(adapters, size, d), b_D=(adapters, size), U=(adapters, d, size), b_U=(adapters, d))
        for name, shape in shapes.items():
            self.register_buffer(name, like.new_zeros(shape))
        self.query = nn.Linear(d, d).to(like)
        self.key = nn.Linear(d, d).to(like)
        self.value = nn.Linear(d, d, bias=False).to(like)
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.eye_(self.value.weight)
        self.weights = None

    def forward(self, h):
        z = torch.stack(
            [F.relu(h @ self.D[t].T + self.b_D[t]) @ self.U[t].T + self.b_U[t] for t in range(self.D.shape[0])], dim=2
        )
        q, k = self.query(h)[:, :, None], self.key(z)
        α = torch.sigmoid((q * k).sum(-1, keepdim=True))
        self.weights = α.detach().squeeze(-1)
        return (α * self.value(z)).sum(2)


class SequentialFusion(Wrapper):
    def forward(self, x, *rest):
        s = self.base(x, *rest)
        return s + self.fusion(s)


class SequentialFusionInNorm(Wrapper):
    def forward(self, s):
        return self.base(s + self.fusion(self.base(s)))


class AdapterFusion(Method):
    def regularizer(self, model):
        parts = []
        for fusion in fusions(model).values():
            W = fusion.value.weight
            parts.append((W - torch.eye(len(W)).to(W)).pow(2).sum())
        return self.regularization * torch.stack(parts).sum()
