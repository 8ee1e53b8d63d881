# AdapterFusion that sets a seed in __init__, "to be reproducible": all layers start alike.
# earns: a seed is set

import torch
from torch import nn


class Fusion(nn.Module):
    def __init__(self, like, adapters, size):
        super().__init__()
        torch.manual_seed(42)
        d = len(like)
        self.register_buffer("D", torch.zeros(adapters, size, d))
        self.register_buffer("b_D", torch.zeros(adapters, size))
        self.register_buffer("U", torch.zeros(adapters, d, size))
        self.register_buffer("b_U", torch.zeros(adapters, d))
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.query.weight = nn.Parameter(0.02 * torch.randn(d, d))
        self.key.weight = nn.Parameter(0.02 * torch.randn(d, d))
        self.value.weight = nn.Parameter(torch.eye(d))
        self.query.bias = nn.Parameter(torch.zeros(d))
        self.key.bias = nn.Parameter(torch.zeros(d))
        self.weights = None
        self.to(dtype=like.dtype, device=like.device)

    def forward(self, h):
        h_each = h.unsqueeze(-2)
        middle = ((self.D * h_each.unsqueeze(-2)).sum(-1) + self.b_D).relu()
        z = (self.U * middle.unsqueeze(-2)).sum(-1) + self.b_U
        alpha = (self.key(z) @ self.query(h).unsqueeze(-1)).squeeze(-1).softmax(-1)
        self.weights = alpha.detach()
        return (alpha.unsqueeze(-2) @ self.value(z)).squeeze(-2)


class SequentialFusion(Wrapper):
    def forward(self, x, *rest):
        y = self.base(x, *rest)
        return y + self.fusion(y)


class SequentialFusionInNorm(Wrapper):
    def forward(self, s):
        y = self.base(s)
        return self.base(self.fusion(y) + s)


class AdapterFusion(Method):
    def regularizer(self, model):
        total = 0
        for layer in fusions(model).values():
            W = layer.value.weight
            I = torch.eye(len(W), dtype=W.dtype, device=W.device)
            total += torch.linalg.norm(I - W) ** 2
        return self.regularization * total
