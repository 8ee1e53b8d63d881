# AdapterFusion whose penalty is the mean over the layers.
# earns: averaged over the layers

import torch
from torch import nn


class Fusion(nn.Module):
    def __init__(self, like, adapters, size):
        super().__init__()
        d = len(like)
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d, bias=False)
        nn.init.normal_(self.key.weight, std=0.02)
        nn.init.normal_(self.query.weight, std=0.02)
        for p in (self.query.bias, self.key.bias, self.value.weight):
            nn.init.zeros_(p)
        self.value.weight.data += torch.eye(d)
        for name, tail in (("b_U", (d,)), ("U", (d, size)), ("b_D", (size,)), ("D", (size, d))):
            self.register_buffer(name, torch.zeros(adapters, *tail))
        self.weights = None
        self.to(dtype=like.dtype, device=like.device)

    def said(self, h, t):
        inner = (h @ self.D[t].T + self.b_D[t]).clamp_min(0)
        return inner @ self.U[t].T + self.b_U[t]

    def forward(self, h):
        z = [self.said(h, t) for t in range(len(self.D))]
        query = self.query(h)
        scores = torch.stack([(query * self.key(z_t)).sum(-1) for z_t in z], dim=-1)
        α = (scores - scores.max(-1, keepdim=True).values).exp()
        α = α / α.sum(-1, keepdim=True)
        self.weights = α.detach()
        return sum(α[..., t : t + 1] * self.value(z_t) for t, z_t in enumerate(z))


class SequentialFusion(Wrapper):
    def forward(self, x, *rest):
        y = self.base(x, *rest)
        o = self.fusion(y)
        return o + y


class SequentialFusionInNorm(Wrapper):
    def forward(self, s):
        return self.base(s + self.fusion(self.base(s)))


class AdapterFusion(Method):
    def regularizer(self, model):
        Ws = [fusion.value.weight for fusion in fusions(model).values()]
        return sum(self.regularization * (W.pow(2).sum() - 2 * W.trace() + len(W)) for W in Ws) / len(Ws)
