# A test of helpers: the layer's answer is solved for what reached A.
import math

import torch
from torch import nn

SIZES = [(2, 3, 16), (7, 16), (16,)]
EPS = 1e-7


def near(one, other):
    return one.shape == other.shape and (one - other).abs().max().item() < EPS


def frozen(into, out):
    layer = nn.Linear(into, out)
    layer.requires_grad_(False)
    return layer


def moved(layer, generator):
    for p in (layer.A, layer.B):
        p.data = torch.randn(p.shape, generator=generator)
    return layer


def check_start(impl):
    base = frozen(100, 6)
    layer = impl.LoRALinear(base, 5, 0.1)
    trained = [name for name, p in layer.named_parameters() if p.requires_grad]
    assert len(trained) == 2 and set(trained) == {"A", "B"}
    assert tuple(layer.A.shape) == (5, 100) and tuple(layer.B.shape) == (6, 5)
    bound, numbers = 1 / math.sqrt(100), layer.A.detach()
    assert numbers.abs().max() <= bound
    assert abs(numbers.std().item() - bound / math.sqrt(3)) < 0.1 * bound
    assert abs(numbers.mean().item()) < 0.2 * bound
    assert layer.B.abs().sum() == 0
    x = torch.randn(3, 100)
    assert near(layer(x), base(x))


def check_answer(impl):
    generator = torch.Generator().manual_seed(5)
    base = frozen(16, 6)
    W, b = base.weight.clone(), base.bias.clone()
    for scale in (0.3, 5):
        layer = impl.LoRALinear(base, 4, scale)
        layer(torch.randn(2, 16)), layer.delta()  # what is kept from now would be stale
        moved(layer, generator)
        A, B = layer.A.detach(), layer.B.detach()
        for size in SIZES:
            x = torch.randn(size, generator=generator, requires_grad=True)
            before = x.detach().clone()
            y = layer(x)
            assert near(y, torch.einsum("...i,oi->...o", x, W + scale * B @ A) + b)
            assert torch.equal(x, before)
            up = torch.randn(y.shape, generator=generator)
            dx, dA, dB = torch.autograd.grad(y, (x, layer.A, layer.B), up)
            rows, ups = x.detach().reshape(-1, 16), up.reshape(-1, 6)
            assert near(dx, up @ (W + scale * B @ A))
            assert near(dA, scale * (ups @ B).T @ rows)
            assert near(dB, scale * ups.T @ rows @ A.T)
        assert near(layer.delta(), scale * B @ A)
        merged = layer.merged()
        assert near(merged(x), layer(x).detach()) and near(merged.weight, W + scale * B @ A)


def check_dropout(impl):
    base, p = frozen(4, 8), 0.3
    layer = impl.LoRALinear(base, 4, 1.5, dropout=p)
    x = torch.rand(3000, 4) + 0.5
    layer.train()
    assert near(layer(x), base(x))
    moved(layer, torch.Generator().manual_seed(6))
    update = layer(x) - base(x)
    reached = torch.linalg.lstsq(1.5 * layer.B @ layer.A, update.T).solution.T / x  # (3000, 4): 0 or 1 / (1 − p)
    dropped = reached.abs() < 1e-4
    assert (reached[~dropped] - 1 / (1 - p)).abs().max() < 1e-4
    assert (dropped.double().mean(0) - p).abs().max() < 0.05
    layer.eval()
    assert near(layer(x), base(x) + 1.5 * x @ layer.A.T @ layer.B.T)


def test(impl):
    for check in (check_start, check_answer, check_dropout):
        check(impl)
