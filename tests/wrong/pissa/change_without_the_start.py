# PiSSA whose ΔW is BA, as in LoRA: merging counts the principal part twice.
# earns: ΔW is B A, as if this were a LoRA

import torch
from torch import nn


def split(W, rank):
    D = W.detach().cpu().double()
    U, S, Vh = torch.linalg.svd(D, full_matrices=False)
    scale = S.sqrt()
    A = (scale[:, None] * Vh)[:rank].to(W)
    B = (U * scale)[:, :rank].to(W)
    rest = D - torch.mm(B.cpu().double(), A.cpu().double())
    return A, B, rest.to(W)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        A, B, rest = split(base.weight, rank)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("R", rest, persistent=False)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.R, self.base.bias) + (x @ self.A.t()) @ self.B.t()

    def delta(self):
        return torch.mm(self.B, self.A)
