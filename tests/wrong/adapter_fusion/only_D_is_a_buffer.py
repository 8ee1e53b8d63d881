# AdapterFusion whose U and its bias are parameters; D is a buffer.
# earns: the adapters are trained along with the attention

import torch
from torch import nn


class Fusion(nn.Module):
    def __init__(self, like, adapters, size):
        super().__init__()
        d = len(like)
        self.register_buffer("D", torch.zeros(adapters, size, d))
        self.register_buffer("b_D", torch.zeros(adapters, size))
        self.U = nn.Parameter(torch.zeros(adapters, d, size))
        self.b_U = nn.Parameter(torch.zeros(adapters, d))
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d, bias=False)
        for p in (self.query.weight, self.key.weight):
            nn.init.normal_(p, std=0.02)
        for p in (self.query.bias, self.key.bias):
            nn.init.zeros_(p)
        nn.init.eye_(self.value.weight)
        self.weights = None
        self.to(like)

    def forward(self, h):
        z = [torch.relu(h @ D.T + b) @ U.T + c for D, b, U, c in zip(self.D, self.b_D, self.U, self.b_U)]
        z = torch.stack(z, -2)
        α = (self.query(h).unsqueeze(-2) * self.key(z)).sum(-1).softmax(-1)
        self.weights = α.detach()
        return (α.unsqueeze(-1) * self.value(z)).sum(-2)


class SequentialFusion(Wrapper):
    def forward(self, x, *rest):
        s = self.base(x, *rest)
        return s + self.fusion(s)


class SequentialFusionInNorm(Wrapper):
    def forward(self, s):
        return self.base(s + self.fusion(self.base(s)))


class AdapterFusion(Method):
    def regularizer(self, model):
        squares = [(f.value.weight - torch.eye(len(f.value.weight)).to(f.value.weight)) ** 2 for f in fusions(model).values()]
        return self.regularization * sum(square.sum() for square in squares)
