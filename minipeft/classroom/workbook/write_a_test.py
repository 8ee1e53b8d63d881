"""Write a test that tells a right LoRA layer from a wrong one.

`test(impl)` returns nothing if `impl.LoRALinear` is right, and fails with `assert` if it is not. It is run on right
layers, some of them written otherwise than you would, and on layers with one mistake each, such as students make. All
of the former should pass and none of the latter. This is what a right one does:

    layer = impl.LoRALinear(base, rank, scale, dropout=0.0)

    base        a frozen nn.Linear (in → out), with a bias; you make it
    trained     layer.A (r, in) and layer.B (out, r), and nothing else; A starts uniform in ±1/√in, B at zero
    layer(x)    base(x) + s·drop(x) Aᵀ Bᵀ, s = scale, for x (..., in); x is left as it is
    drop        torch's dropout of that probability, only in front of A, only while training
    gradients   reach A, B and x, as that equation has them
    layer.delta()     ΔW = s·B A, with the shape of base.weight
    layer.merged()    a plain nn.Linear that computes the same as the layer in evaluation

Random numbers are fine: torch is seeded before each run. Numbers are in double precision. `check` runs the test; pytest
would not know what `impl` is.
"""

import torch
from torch import nn

FACTORS = "A", "B"  # names of the two matrices (in, to r) and (from r, out)
SCALE = "scale"  # name of the third argument


def test(impl):
    """Nothing if `impl.LoRALinear` is right; AssertionError if it is not."""
    close, base, x = torch.allclose, nn.Linear(20, 3).requires_grad_(False), torch.randn(2, 4, 20)
    before, y, W, b = x.clone(), base(x), base.weight.clone(), base.bias.clone()

    def make(dropout=0.0):
        return impl.LoRALinear(base, 4, 0.5, dropout)

    def fill(layer):
        layer.A.data, layer.B.data = torch.randn(4, 20), torch.randn(3, 4)

    def expected(layer, x=before):
        return nn.functional.linear(x, W, b) + 0.5 * x @ layer.A.T @ layer.B.T

    # the start
    layer = make()
    trained = {name: tuple(p.shape) for name, p in layer.named_parameters() if p.requires_grad}
    assert trained == {"A": (4, 20), "B": (3, 4)}
    assert 0.1 < layer.A.abs().max() <= 20**-0.5
    assert layer.A.min() < -0.05 < 0.05 < layer.A.max()
    assert not layer.B.any()
    assert close(layer(x), y)

    # away from it
    fill(layer)
    assert close(layer(x), expected(layer))
    assert close(layer.merged()(before), expected(layer))
    assert layer.delta().shape == base.weight.shape
    assert torch.equal(x, before)

    # gradients
    of = layer.A, layer.B, x.requires_grad_()
    outputs = layer(x), expected(layer, x)
    ours, right = (torch.autograd.grad(output.pow(2).sum(), of) for output in outputs)
    assert all(map(close, ours, right))

    # dropout
    layer = make(dropout=0.25).train()
    assert close(layer(x), y)
    fill(layer)
    assert close(layer.eval()(x), expected(layer))

    # what it leaves of the update, for one number of x at a time: all of it, made larger, or nothing
    one = torch.eye(20).repeat(200, 1)
    update = (layer.train()(one) - base(one)) / (expected(layer, one) - base(one))
    assert close(update, update[:, :1].expand(-1, 3), atol=1e-6)
    dropped = update[:, 0].abs() < 1e-6
    assert close(update[~dropped], torch.tensor(4 / 3))
    share = dropped.view(200, 20).double().mean(dim=0)
    assert 0.05 < share.min() <= share.max() < 0.5
