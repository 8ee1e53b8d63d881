# A right solution in other words.
import torch
from torch import nn

from minipeft.attach import Wrapper

SPREAD = 2e-2


def speak(h, D, b, U, c):
    """What one adapter finds."""
    return torch.addmm(c, torch.addmm(b, h, D.T).clamp(min=0), U.T)


class Fusion(nn.Module):
    def __init__(self, like, adapters, size):
        super().__init__()
        (d,), N, m = like.shape, adapters, size
        for name, shape in (("U", (N, d, m)), ("b_U", (N, d)), ("D", (N, m, d)), ("b_D", (N, m))):
            self.register_buffer(name, like.new_zeros(shape).detach())
        self.value = nn.Linear(d, d, bias=False)
        self.value.weight = nn.Parameter(torch.diag(torch.ones(d)))
        for name in ("key", "query"):
            layer = nn.Linear(d, d)
            layer.weight = nn.Parameter(SPREAD * torch.randn(d, d))
            layer.bias = nn.Parameter(torch.zeros(d))
            setattr(self, name, layer)
        self.to(like)
        self.weights = None

    def forward(self, h):
        rows = h.flatten(0, -2)
        z = torch.stack([speak(rows, *one) for one in zip(self.D, self.b_D, self.U, self.b_U)], 1)  # (BT, N, d)
        scores = torch.bmm(self.key(z), self.query(rows)[..., None])[..., 0]
        a = (scores - scores.logsumexp(1, keepdim=True)).exp()
        self.weights = a.detach().view(*h.shape[:-1], -1)
        mixed = torch.bmm(a[:, None], z)[:, 0]  # W_v is linear and has no bias: mix first
        return self.value(mixed).view_as(h)


class SequentialFusion(Wrapper):
    def forward(self, *args):
        s = self.base(*args)
        return self.fusion(s).add(s)


class SequentialFusionInNorm(Wrapper):
    def forward(self, s):
        norm = self.base
        return norm(self.fusion(norm(s)).add(s))


class AdapterFusion(Method):
    def regularizer(self, model):
        off = [f.value.weight - torch.diag(torch.ones_like(f.value.weight[0])) for f in fusions(model).values()]
        return sum((E.T @ E).trace() for E in off) * self.regularization
