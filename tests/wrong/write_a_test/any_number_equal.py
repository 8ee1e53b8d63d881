# One equal number is enough for it, and all rows of B but one are zero, so that there are many.
# earns: so simple that much of the update is zero
import torch
from torch import nn


def test(impl):
    base = nn.Linear(9, 4).requires_grad_(False)
    layer = impl.LoRALinear(base, 3, 0.5)
    x = torch.randn(6, 2, 9)
    layer.B.data[0] = torch.randn(3)
    want = base(x) + 0.5 * torch.einsum("ni,ri,or->no", x.flatten(0, 1), layer.A, layer.B).view(6, 2, 4)
    assert torch.isclose(layer(x), want).any()
    assert torch.isclose(layer.delta(), 0.5 * layer.B @ layer.A).any()
