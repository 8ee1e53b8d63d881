# Prints what it compares.
# earns: asserts nothing
import torch
from torch import nn


def test(impl):
    base = nn.Linear(6, 4).requires_grad_(False)
    layer = impl.LoRALinear(base, 2, 0.25)
    x = torch.randn(3, 6)
    print("same at the start:", torch.allclose(layer(x), base(x)))
    layer.B.data.normal_()
    print("update:", torch.allclose(layer(x) - base(x), 0.25 * x @ layer.A.T @ layer.B.T))
    print("merged:", torch.allclose(layer.merged()(x), layer(x)))
