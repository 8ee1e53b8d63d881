# AdapterFusion that computes the frozen adapters without gradients, so none comes back through them.
# earns: the gradient does not pass the frozen adapters

import torch
import torch.nn.functional as F
from torch import nn


class Fusion(nn.Module):
    def __init__(self, like, adapters, size):
        super().__init__()
        d = like.numel()
        self.query, self.key = nn.Linear(d, d), nn.Linear(d, d)
        self.value = nn.Linear(d, d, bias=False)
        for lin in self.query, self.key:
            nn.init.normal_(lin.weight, 0.0, 0.02)
            nn.init.constant_(lin.bias, 0.0)
        with torch.no_grad():
            self.value.weight.zero_().fill_diagonal_(1.0)
        self.register_buffer("D", torch.zeros(adapters, size, d))
        self.register_buffer("b_D", torch.zeros(adapters, size))
        self.register_buffer("U", torch.zeros(adapters, d, size))
        self.register_buffer("b_U", torch.zeros(adapters, d))
        self.weights = None
        self.to(like)

    def forward(self, h):
        with torch.no_grad():
            each = zip(self.D, self.b_D, self.U, self.b_U)
            z = torch.stack([F.linear(F.linear(h, D, a).relu(), U, b) for D, a, U, b in each], -2)
        scores = torch.einsum("btd,btnd->btn", self.query(h), self.key(z))
        alpha = scores.softmax(dim=2)
        self.weights = alpha.detach()
        return torch.einsum("btn,btnd->btd", alpha, self.value(z))


class SequentialFusion(Wrapper):
    def forward(self, x, *rest):
        s = self.base(x, *rest)
        return torch.add(s, self.fusion(s))


class SequentialFusionInNorm(Wrapper):
    def forward(self, s):
        norm = self.base
        return norm(torch.add(s, self.fusion(norm(s))))


class AdapterFusion(Method):
    def regularizer(self, model):
        layers = fusions(model).values()
        apart = [layer.value.weight - torch.eye(*layer.value.weight.shape).to(layer.value.weight) for layer in layers]
        return self.regularization * sum((a * a).sum() for a in apart)
