# A tolerance as large as the numbers.
# earns: tolerance
import torch
from torch import nn


def test(impl):
    base = nn.Linear(20, 6).requires_grad_(False)
    layer = impl.LoRALinear(base, 4, 0.5)
    x = torch.randn(2, 3, 20)
    close = lambda a, b: torch.allclose(a, b, atol=10.0)
    assert {k: tuple(p.shape) for k, p in layer.named_parameters() if p.requires_grad} == {"A": (4, 20), "B": (6, 4)}
    assert close(layer(x), base(x))
    layer.A.data, layer.B.data = torch.randn(4, 20), torch.randn(6, 4)
    assert close(layer(x), base(x) + 0.5 * x @ layer.A.T @ layer.B.T)
    assert close(layer.merged()(x), layer(x))
    assert close(layer.delta(), 0.5 * layer.B @ layer.A)
