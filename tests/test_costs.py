"""Costs predicted by counting are what weighing the tensors gives."""

import pytest
import torch
from torch import nn

from minipeft.costs import delta_bytes, latency, measure, predict
from minipeft.methods import Full, LoRA
from minipeft.tasks import Batch
from tests.models import DIM, LAYERS, bits, make, rows, same_bits


@pytest.fixture
def batch():
    _, tokens, mask = rows("left")
    return Batch(tokens, tokens, mask)


@pytest.mark.parametrize(("method", "learned"), [(LoRA(rank=2), LAYERS * 2 * 2 * 2 * DIM), (Full(), None)], ids=str)
def test_predicted_is_measured(batch, method, learned):
    base = make().requires_grad_(False)
    total = sum(p.numel() for p in base.parameters())
    view = method.attach(base)
    before, stored = bits(view), 4 * (total + (learned or 0))
    predicted, measured = predict(view), measure(view, batch)
    assert predicted.weights == measured.weights == stored
    assert predicted.gradients == measured.gradients == delta_bytes(view) == 4 * (learned or total)
    assert predicted.optimizer == measured.optimizer == 8 * (learned or total)
    assert measured.total == measured.weights + measured.gradients + measured.optimizer + measured.activations
    assert same_bits(view, before)  # left as it was
    assert all(p.grad is None for p in [*view.parameters(), *base.parameters()])
    assert predict(base).gradients == delta_bytes(base) == 0


def test_activations_are_what_the_backward_pass_needs():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3, 5))

        def forward(self, x, mask=None):
            return torch.tanh(x @ self.w)  # keeps x (7·3) and tanh's output (7·5)

    x, targets = torch.randn(7, 3), torch.zeros(7, dtype=torch.long)
    kept = measure(Square(), Batch(x, targets)).activations
    loss_keeps = 4 * 7 * 5 + 8 * 7  # log-softmax (7·5) and the targets
    assert 4 * (7 * 3 + 7 * 5) < kept <= 4 * (7 * 3 + 7 * 5) + loss_keeps + 8


def test_latency_gives_quartiles_in_order(batch):
    model = make()
    times = latency({"a": model, "b": model}, batch, repeats=5)
    assert set(times) == {"a", "b"}
    assert all(0 < low <= middle <= high for low, middle, high in times.values())
