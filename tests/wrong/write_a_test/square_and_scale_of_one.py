# in = out = r and s = 1: hardly anything can go wrong there.
# earns: s = 1
import torch
from torch import nn


def test(impl):
    n = 8
    base = nn.Linear(n, n).requires_grad_(False)
    x = torch.randn(2, 3, n)
    layer = impl.LoRALinear(base, n, 1.0)
    assert {k for k, p in layer.named_parameters() if p.requires_grad} == {"A", "B"}
    assert torch.allclose(layer(x), base(x)) and torch.count_nonzero(layer.B) == 0
    with torch.no_grad():
        layer.A.copy_(torch.randn(n, n))
        layer.B.copy_(torch.randn(n, n))
    delta = layer.B @ layer.A
    assert torch.allclose(layer.delta(), delta)
    assert torch.allclose(layer(x), nn.functional.linear(x, base.weight + delta, base.bias))
    assert torch.allclose(layer.merged()(x), layer(x))
