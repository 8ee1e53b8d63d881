# Everything but gradients.
# earns: never looks at gradients
import torch
from torch import nn


def agree(a, b):
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-8)


def test(impl):
    d_in, d_out, r, s = 24, 10, 3, 4.0
    base = nn.Linear(d_in, d_out).requires_grad_(False)
    W, bias = base.weight.clone(), base.bias.clone()
    x = torch.randn(2, 5, d_in)
    kept = x.clone()

    def new(p=0.0):
        return impl.LoRALinear(base, r, s, dropout=p)

    def right(lora, x):
        return x @ (W + s * lora.B @ lora.A).T + bias

    lora = new()
    assert sorted(n for n, p in lora.named_parameters() if p.requires_grad) == ["A", "B"]
    assert lora.A.shape == (r, d_in) and lora.B.shape == (d_out, r)
    assert torch.count_nonzero(lora.B) == 0
    spread, edge = lora.A.detach().flatten(), d_in**-0.5
    assert spread.max() <= edge and spread.min() >= -edge and spread.max() > edge / 2 and spread.min() < -edge / 2
    assert agree(lora(x), base(x))

    with torch.no_grad():
        lora.A.normal_(), lora.B.normal_()
    assert agree(lora(x), right(lora, x))
    assert agree(lora.delta(), s * lora.B @ lora.A)
    assert agree(lora.merged()(x), right(lora, x))
    assert torch.equal(x, kept)
    with torch.no_grad():
        lora.B.mul_(-2)
    assert agree(lora(x), right(lora, x)) and agree(lora.delta(), s * lora.B @ lora.A)


    p = 0.2
    wet = new(p)
    wet.train()
    assert agree(wet(x), base(x))
    with torch.no_grad():
        wet.A.normal_(), wet.B.normal_()
    wet.eval()
    assert agree(wet(x), right(wet, x))
    wet.train()
    hidden = torch.full((500, 1, 1), 1.0) * torch.diag(torch.randn(d_in))  # one number of x at a time, 500 times
    made = wet(hidden) - base(hidden)
    whole = right(wet, hidden) - base(hidden)
    gone = (made.abs() < 1e-9).all(-1)
    assert agree(made[~gone], whole[~gone] / (1 - p))
    rate = gone.double().mean(0)
    assert (rate > 0.08).all() and (rate < 0.35).all()
