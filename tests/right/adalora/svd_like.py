# Λ as a diagonal matrix, parameters cloned from random tensors of the base's type, a heap for the allocation.

import math

import torch
from torch import nn


class AdaLoRALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        weight = base.weight
        P = torch.normal(0.0, 0.02, (weight.shape[0], rank), dtype=torch.float32)
        Q = torch.normal(0.0, 0.02, (weight.shape[1], rank), dtype=torch.float32).T.contiguous()
        for name, value in {"P": P, "lam": 0 * P[0], "Q": Q}.items():
            self.register_parameter(name, nn.Parameter(value.to(weight)))
        self.begin()

    def forward(self, x):
        S = torch.diag_embed(self.lam)
        return self.base(x) + torch.matmul(torch.matmul(torch.matmul(x, self.Q.mT), S), self.P.mT)

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
        s = {key: self.sensitivity[key].mul(self.uncertainty[key]) for key in self.sensitivity}
        columns = s["P"].sum(0) / self.P.shape[0]
        rows = torch.einsum("ri->r", s["Q"]) / self.Q.shape[1]
        return columns + rows + s["lam"]


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
    from heapq import nlargest

    places = [(i, j) for i, layer in enumerate(layers) for j in range(layer.lam.numel())]
    scores = [layer.scores().tolist() for layer in layers]
    best = set(nlargest(budget, places, key=lambda at: scores[at[0]][at[1]]))
    for i, layer in enumerate(layers):
        kept = [(i, j) in best for j in range(layer.lam.numel())]
        layer.kept = layer.lam.new_tensor(kept, dtype=torch.bool)
        for j, stays in enumerate(kept):
            if not stays:
                layer.lam[j] = 0.0
        layer.history = [*layer.history, (t, kept.count(True))]
