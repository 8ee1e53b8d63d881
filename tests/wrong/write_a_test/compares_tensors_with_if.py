# `assert a == b` of two tensors, which is no single truth.
# earns: Boolean value of Tensor with more than one value is ambiguous
import torch
from torch import nn


def test(impl):
    base = nn.Linear(8, 3).requires_grad_(False)
    layer = impl.LoRALinear(base, 4, 2.0)
    x = torch.randn(2, 8)
    assert layer(x) == base(x)
