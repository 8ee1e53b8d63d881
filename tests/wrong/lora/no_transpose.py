# LoRA whose forward multiplies by A and B in the order of the formula, B A x, with x a row.
# earns: x is taken for a matrix of columns

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        d_out, d_in = base.weight.shape
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.A = nn.Parameter(torch.empty(rank, d_in, **like).uniform_(-(d_in**-0.5), d_in**-0.5))
        self.B = nn.Parameter(torch.zeros(d_out, rank, **like))
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def forward(self, x):
        update = self.B @ (self.A @ self.dropout(x).T)
        return self.base(x) + self.scale * update.T

    def delta(self):
        return self.scale * (self.B @ self.A)
