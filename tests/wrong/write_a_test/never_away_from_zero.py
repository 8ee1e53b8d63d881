# B stays at zero, where every update is nothing.
# earns: still at its start
import torch
from torch import nn


def test(impl):
    base = nn.Linear(16, 5).requires_grad_(False)
    for r in (1, 2, 8):
        for s in (0.5, 1.0, 4.0):
            layer = impl.LoRALinear(base, r, s)
            x = torch.randn(4, 7, 16)
            assert layer.A.shape == (r, 16) and layer.B.shape == (5, r)
            assert torch.allclose(layer(x), base(x) + s * x @ layer.A.T @ layer.B.T)
            assert torch.allclose(layer.delta(), s * layer.B @ layer.A)
            assert torch.allclose(layer.merged()(x), layer(x))
