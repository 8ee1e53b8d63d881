# right
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, WeightWrapper

STD = 0.02
AVERAGED_OVER = {"lam": None, "P": 0, "Q": 1}


def gaussian(like, *shape):
    return nn.Parameter(STD * torch.randn(shape, dtype=like.dtype, device=like.device))


class AdaLoRALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        w = base.weight
        self.Q = gaussian(w, rank, w.shape[1])
        self.lam = nn.Parameter(torch.zeros(rank, dtype=w.dtype, device=w.device))
        self.P = gaussian(w, w.shape[0], rank)
        self.begin()

    def forward(self, x):
        into = self.lam.unsqueeze(1) * self.Q  # Λ Q
        return torch.einsum("...i,ri,or->...o", x, into, self.P) + self.base(x)

    def delta(self):
        return torch.einsum("or,r,ri->oi", self.P, self.lam, self.Q)

    @torch.no_grad()
    def update_importance(self, beta1, beta2):
        for name, mean in self.sensitivity.items():
            w = getattr(self, name)
            now = w.grad.abs() * w.abs()
            mean.lerp_(now, 1 - beta1)
            self.uncertainty[name].mul_(beta2).add_((now - mean).abs(), alpha=1 - beta2)

    def scores(self):
        total = torch.zeros_like(self.lam.detach())
        for name, dim in AVERAGED_OVER.items():
            s = self.sensitivity[name] * self.uncertainty[name]
            total += s if dim is None else s.sum(dim) / s.shape[dim]
        return total


def distances(layer):
    for w in (layer.P.mT, layer.Q):
        gram = torch.einsum("ai,bi->ab", w, w)
        yield torch.linalg.vector_norm(gram - torch.diag(torch.ones_like(layer.lam)))


class AdaLoRA(Method):
    def regularizer(self, model):
        norms = torch.stack([norm for layer in layers(model).values() for norm in distances(layer)])
        return self.gamma * (norms.mean() if self.mean_norm else norms.pow(2).sum())

    def budget(self, t, steps, matrices):
        high, low = self.initial_rank * matrices, max(1, round(self.rank * matrices))
        first, last = self.phases(steps)
        left = min(max(last - t, 0), last - first)
        return low + (high - low) * left**3 // (last - first) ** 3  # in whole numbers


def allocate(layers, t, budget):
    scores = torch.cat([layer.scores() for layer in layers])
    place = torch.empty_like(scores, dtype=torch.long)
    place[scores.argsort(descending=True, stable=True)] = torch.arange(len(scores), device=scores.device)
    parts = (place < budget).split([layer.lam.numel() for layer in layers])
    with torch.no_grad():
        for layer, stay in zip(layers, parts):
            layer.kept = stay.clone()
            layer.lam.masked_fill_(stay.logical_not(), 0.0)
            layer.history += [(t, stay.count_nonzero().item())]
