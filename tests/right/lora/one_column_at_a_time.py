# The update as a sum of r outer products; parameters registered by name; one group for each parameter.

import math

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        W = base.weight.detach()
        out, into = W.shape
        self.register_parameter("B", nn.Parameter(torch.zeros_like(W[:, :1]).expand(out, rank).clone()))
        uniform = torch.distributions.Uniform(-1 / math.sqrt(into), 1 / math.sqrt(into))
        self.register_parameter("A", nn.Parameter(uniform.sample((rank, into)).to(dtype=W.dtype, device=W.device)))
        self.register_buffer("s", torch.tensor(float(scale)), persistent=False)
        self.p = dropout

    def forward(self, x):
        y, seen = self.base(x), torch.dropout(x, self.p, self.training)
        for a, b in zip(self.A.unbind(0), self.B.unbind(1)):
            y = y + float(self.s) * (seen @ a)[..., None] * b
        return y

    def delta(self):
        return float(self.s) * sum(torch.outer(b, a) for a, b in zip(self.A.unbind(0), self.B.unbind(1)))


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        flat = tokens.reshape(-1)
        change = (self.B @ self.A.index_select(1, flat)).mT * self.scale
        return self.base(tokens) + change.reshape(*tokens.shape, -1)

    def delta(self):
        return torch.einsum("dr,rv->vd", self.B * self.scale, self.A)


class LoRA(Method):
    def scale(self, rank):
        return self.alpha * math.pow(rank, -0.5 if self.rslora else -1)

    def groups(self, model, lr):
        def rate(name):
            return lr * self.lr_ratio if name.rpartition(".")[2] == "B" else lr

        return [{"params": [p], "lr": rate(name)} for name, p in reversed(trainable(model).items())]
