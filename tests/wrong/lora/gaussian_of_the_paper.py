# LoRA with A drawn from a standard Gaussian, as a reader takes section 4.1 of the paper.
# earns: The paper says Gaussian

import torch
import torch.nn as nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        n_out, n_in = base.weight.size()
        kind = dict(dtype=base.weight.dtype, device=base.weight.device)
        self.A = nn.Parameter(torch.randn(rank, n_in, **kind))
        self.B = nn.Parameter(torch.zeros(n_out, rank, **kind))
        self.scale = scale
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        low = self.drop(x).matmul(self.A.t())
        return self.base(x) + low.matmul(self.B.t()) * self.scale

    def delta(self):
        return self.B.matmul(self.A) * self.scale


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        return self.base(tokens) + self.scale * (self.A[:, tokens].movedim(0, -1) @ self.B.t())

    def delta(self):
        return self.scale * (self.A.t() @ self.B.t())


class LoRA(Method):
    def scale(self, rank):
        if self.rslora:
            return self.alpha * rank**-0.5
        return self.alpha / rank

    def groups(self, model, lr):
        rates = {True: [], False: []}
        for name, p in model.named_parameters():
            if p.requires_grad:
                rates[name.endswith(".B")].append(p)
        return [{"params": rates[True], "lr": self.lr_ratio * lr}, {"params": rates[False], "lr": lr}]
