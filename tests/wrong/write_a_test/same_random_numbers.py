# Expects the numbers that its own layer draws after the same seed.
# earns: random numbers
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self, base, rank, scale):
        super().__init__()
        self.base, self.scale = base, scale
        self.A = nn.Parameter(torch.empty(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, x):
        return self.base(x) + self.scale * x @ self.A.T @ self.B.T


def test(impl):
    base = nn.Linear(10, 7).requires_grad_(False)
    torch.manual_seed(3)
    mine = Mine(base, 2, 3.0)
    torch.manual_seed(3)
    theirs = impl.LoRALinear(base, 2, 3.0)
    assert torch.equal(mine.A, theirs.A) and torch.equal(mine.B, theirs.B)
    x = torch.randn(4, 10)
    mine.B.data[:] = theirs.B.data[:] = torch.randn(7, 2)
    assert torch.allclose(mine(x), theirs(x))
