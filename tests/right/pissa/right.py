# right
import torch
from torch import nn

from minipeft.attach import WeightWrapper

EXACT = torch.float64


def principal(W, rank):
    """Balanced factors of the largest part, from the transposed matrix."""
    V, S, Uh = torch.linalg.svd(W.T, full_matrices=False)
    weight = S[:rank].pow(0.5)
    return torch.einsum("ir,r->ri", V[:, :rank], weight), torch.einsum("ro,r->or", Uh[:rank], weight)


def split(W, rank):
    with torch.no_grad():
        wide = W.cpu().to(EXACT)
        A, B = (part.to(dtype=W.dtype, device=W.device).contiguous() for part in principal(wide, rank))
        R = torch.addmm(wide, B.cpu().to(EXACT), A.cpu().to(EXACT), alpha=-1)
        return A, B, R.to(dtype=W.dtype, device=W.device)


class PiSSALinear(WeightWrapper):
    def __init__(self, base, rank):
        super().__init__(base)
        for name, value in zip("ABR", split(base.weight, rank), strict=True):
            if name == "R":
                self.register_buffer(name, value, persistent=False)
            else:
                self.register_parameter(name, nn.Parameter(value))

    def forward(self, x):
        y = x @ self.R.mT + torch.einsum("...i,ri,or->...o", x, self.A, self.B)
        return y if self.base.bias is None else y + self.base.bias

    def delta(self):
        return torch.addmm(self.R - self.base.weight, self.B, self.A)
