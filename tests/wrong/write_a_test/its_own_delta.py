# Expects what the layer's own delta gives.
# earns: compares the layer with itself
import torch
from torch import nn


def test(impl):
    torch.manual_seed(1)
    base = nn.Linear(30, 10).requires_grad_(False)
    layer = impl.LoRALinear(base, 4, 0.5)
    x = torch.randn(2, 5, 30)
    same = x.clone()
    shapes = {k: list(p.shape) for k, p in layer.named_parameters() if p.requires_grad}
    assert shapes == {"A": [4, 30], "B": [10, 4]}
    assert not layer.B.any() and 0.15 < layer.A.max() < 30**-0.5 and -(30**-0.5) < layer.A.min() < -0.15
    assert torch.allclose(layer(x), base(x))
    for p in (layer.A, layer.B):
        p.data = torch.randn_like(p)
    assert torch.allclose(layer(x), base(x) + x @ layer.delta().T)
    assert torch.allclose(layer.merged()(x), layer(x))
    assert torch.equal(x, same)
