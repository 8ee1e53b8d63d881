# Dropout is tried only in evaluation mode: what it does while training (where it stands, how much, rescaled or not, on the frozen path) is never looked at.
# earns: dropout in evaluation alone
import math

import torch
from torch import nn

FACTORS = "A", "B"
SCALE = "scale"

IN, OUT, RANK, S = 5, 7, 5, 0.3


def frozen_linear(n_in=IN, n_out=OUT):
    base = nn.Linear(n_in, n_out)
    for p in base.parameters():
        p.requires_grad_(False)
    return base


def randomise(layer):
    with torch.no_grad():
        layer.A.normal_()
        layer.B.normal_()


def by_hand(base, layer, x, s=S):
    return x @ base.weight.T + base.bias + s * (x @ layer.A.T) @ layer.B.T


def check_start(impl):
    n_in, n_out, r = 64, 9, 50
    base = frozen_linear(n_in, n_out)
    layer = impl.LoRALinear(base, r, S)
    learned = {k: tuple(p.shape) for k, p in layer.named_parameters() if p.requires_grad}
    assert learned == {"A": (r, n_in), "B": (n_out, r)}, learned
    bound = 1 / math.sqrt(n_in)
    A = layer.A.detach()
    assert A.dtype == layer.B.dtype == base.weight.dtype
    assert A.abs().max() <= bound * (1 + 1e-9), "outside of the bound"
    assert A.abs().max() > 0.95 * bound, "does not reach the bound"
    assert abs(A.mean()) < 0.1 * bound, "not centred"
    assert abs(A.std() / (bound / math.sqrt(3)) - 1) < 0.08, "not uniform"
    assert layer.B.detach().abs().max() == 0
    x = torch.randn(3, n_in)
    assert torch.allclose(layer(x), base(x))
    assert not torch.equal(A, impl.LoRALinear(base, r, S).A), "two layers start alike"


def check_equation(impl):
    for shape in [(IN,), (4, IN), (2, 3, IN)]:
        base = frozen_linear()
        layer = impl.LoRALinear(base, 3, S)
        randomise(layer)
        x = torch.randn(shape)
        kept = x.clone()
        W, b = base.weight.clone(), base.bias.clone()
        y = layer(x)
        assert y.shape == (*shape[:-1], OUT)
        assert torch.allclose(y, by_hand(base, layer, x))
        assert torch.equal(x, kept)
        change = layer.delta()
        assert change.shape == W.shape
        assert torch.allclose(change, S * layer.B @ layer.A)
        plain = layer.merged()
        assert isinstance(plain, nn.Linear)
        assert torch.allclose(plain(x), y)
        assert torch.equal(base.weight, W) and torch.equal(base.bias, b)
        assert torch.allclose(layer(x), y)


def check_gradients(impl):
    base = frozen_linear()
    layer = impl.LoRALinear(base, 3, S)
    randomise(layer)
    x = torch.randn(4, IN, requires_grad=True)
    weights = torch.randn(4, OUT)
    wanted = torch.autograd.grad((by_hand(base, layer, x) * weights).sum(), [layer.A, layer.B, x])
    got = torch.autograd.grad((layer(x) * weights).sum(), [layer.A, layer.B, x], allow_unused=True)
    for g, w in zip(got, wanted):
        assert g is not None and torch.allclose(g, w)


def check_dropout(impl):
    p = 0.25
    base = frozen_linear()
    layer = impl.LoRALinear(base, RANK, S, dropout=p)
    randomise(layer)
    x = torch.randn(20, IN)
    layer.eval()
    assert torch.allclose(layer(x), by_hand(base, layer, x))
    assert torch.allclose(layer.merged()(x), by_hand(base, layer, x))
    none = impl.LoRALinear(base, 3, S).train()
    randomise(none)
    assert torch.allclose(none(x), by_hand(base, none, x))


def test(impl):
    check_start(impl)
    check_equation(impl)
    check_gradients(impl)
    check_dropout(impl)
