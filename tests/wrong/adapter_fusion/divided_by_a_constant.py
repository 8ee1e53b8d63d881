# AdapterFusion whose scores are divided by 8, the root of the usual 64.
# earns: the scores are divided by a number

import torch
from torch import nn


class Fusion(nn.Module):
    def __init__(self, like, adapters, size):
        super().__init__()
        width = like.shape[0]
        where = {"dtype": like.dtype, "device": like.device}
        self.register_buffer("D", torch.zeros(adapters, size, width, **where))
        self.register_buffer("b_D", torch.zeros(adapters, size, **where))
        self.register_buffer("U", torch.zeros(adapters, width, size, **where))
        self.register_buffer("b_U", torch.zeros(adapters, width, **where))
        self.query = nn.Linear(width, width, **where)
        self.key = nn.Linear(width, width, **where)
        self.value = nn.Linear(width, width, bias=False, **where)
        for linear in (self.query, self.key):
            linear.weight.data.normal_(0, 0.02)
            linear.bias.data.zero_()
        self.value.weight.data.copy_(torch.eye(width))
        self.weights = None

    def forward(self, h):
        found = []
        for n in range(len(self.D)):
            middle = torch.relu(h @ self.D[n].T + self.b_D[n])
            found.append(middle @ self.U[n].T + self.b_U[n])
        z = torch.stack(found, dim=-2)
        scores = (self.key(z) * self.query(h).unsqueeze(-2)).sum(dim=-1) / 8
        alpha = torch.softmax(scores, dim=-1)
        self.weights = alpha.detach()
        return (alpha.unsqueeze(-1) * self.value(z)).sum(dim=-2)


class SequentialFusion(Wrapper):
    def forward(self, x, *rest):
        block = self.base(x, *rest)
        return self.fusion(block) + block


class SequentialFusionInNorm(Wrapper):
    def forward(self, s):
        return self.base(self.fusion(self.base(s)) + s)


class AdapterFusion(Method):
    def regularizer(self, model):
        penalty = 0.0
        for fusion in fusions(model).values():
            W = fusion.value.weight
            penalty = penalty + ((W - torch.eye(W.shape[0], dtype=W.dtype, device=W.device)) ** 2).sum()
        return self.regularization * penalty
