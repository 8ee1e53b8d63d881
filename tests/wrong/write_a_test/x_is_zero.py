# Zeros at the input: only the bias comes out.
# earns: zeros
import torch
from torch import nn


def test(impl):
    base = nn.Linear(8, 3).requires_grad_(False)
    x = torch.zeros(2, 4, 8)
    for p in (0.0, 0.5):
        layer = impl.LoRALinear(base, 4, 2.0, dropout=p)
        layer.A.data.normal_()
        layer.B.data.normal_()
        for mode in (True, False):
            layer.train(mode)
            assert torch.allclose(layer(x), base(x) + 2.0 * x @ layer.A.T @ layer.B.T)
        assert torch.allclose(layer.merged()(x), base(x))
