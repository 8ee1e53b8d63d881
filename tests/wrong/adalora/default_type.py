# AdaLoRA whose triplets are made without the type of the base.
# earns: P, λ or Q has the default type

import math

import torch
from torch import nn


class AdaLoRALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        d_out, d_in = base.weight.shape
        self.P = nn.Parameter(torch.randn(d_out, rank) * 0.02)
        self.lam = nn.Parameter(torch.zeros(rank))
        self.Q = nn.Parameter(torch.randn(rank, d_in) * 0.02)
        self.begin()

    def forward(self, x):
        update = x @ self.Q.T * self.lam @ self.P.T
        return self.base(x) + update

    def delta(self):
        return self.P @ torch.diag(self.lam) @ self.Q

    def update_importance(self, beta1, beta2):
        for key, w in (("P", self.P), ("lam", self.lam), ("Q", self.Q)):
            importance = torch.abs(w * w.grad)
            mean = self.sensitivity[key] * beta1 + importance * (1.0 - beta1)
            gap = torch.abs(importance - mean)
            self.sensitivity[key] = mean
            self.uncertainty[key] = self.uncertainty[key] * beta2 + gap * (1.0 - beta2)

    def scores(self):
        def s(key):
            return self.sensitivity[key] * self.uncertainty[key]

        return s("lam") + s("P").mean(dim=0) + s("Q").mean(dim=1)


class AdaLoRA(Method):
    def regularizer(self, model):
        norms = []
        for layer in layers(model).values():
            eye = torch.eye(layer.P.shape[1], dtype=layer.P.dtype, device=layer.P.device)
            norms.append(torch.linalg.matrix_norm(layer.P.T @ layer.P - eye))
            norms.append(torch.linalg.matrix_norm(layer.Q @ layer.Q.T - eye))
        if self.mean_norm:
            return self.gamma * torch.stack(norms).mean()
        return self.gamma * sum(n**2 for n in norms)

    def budget(self, t, steps, matrices):
        start = self.initial_rank * matrices
        end = max(round(self.rank * matrices), 1)
        begin, finish = self.phases(steps)
        if t <= begin:
            return start
        if t >= finish:
            return end
        remaining = (finish - t) / (finish - begin)
        return math.floor(end + (start - end) * remaining**3)


def allocate(layers, t, budget):
    everyone = [(float(score), which, i) for which, layer in enumerate(layers) for i, score in enumerate(layer.scores())]
    everyone.sort(reverse=True)
    chosen = {(which, i) for _, which, i in everyone[:budget]}
    for which, layer in enumerate(layers):
        stays = [(which, i) in chosen for i in range(len(layer.lam))]
        layer.kept = torch.tensor(stays, device=layer.lam.device)
        layer.lam.masked_fill_(~layer.kept, 0.0)
        layer.history.append((t, sum(stays)))
