"""Costs predicted by counting are what weighing the tensors gives."""

import copy

import pytest
import torch
from torch import nn

from minipeft.costs import delta_bytes, latency, measure, predict, training_time
from minipeft.methods import Full, LoRA
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import BOS, VOCABULARY, Batch, task


@pytest.fixture
def model():
    return Transformer(Config(vocab=len(VOCABULARY), dim=16, heads=2, ff=24, context=24, bos=BOS)).eval()


@pytest.fixture
def batch():
    return task("reverse+blue").batch(4, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("method", "trained"), [(LoRA(rank=2), 2 * 2 * 2 * 32), (Full(), None)], ids=["lora", "full"])
def test_predicted_is_measured(model, batch, method, trained):
    total = sum(p.numel() for p in model.parameters())
    trained, model = trained or total, method.attach(model)
    before = copy.deepcopy(model.state_dict())
    predicted, measured = predict(model), measure(model, batch)
    assert predicted.weights == measured.weights == 4 * (total + (trained if trained < total else 0))
    assert predicted.gradients == measured.gradients == delta_bytes(model) == 4 * trained
    assert predicted.optimizer == measured.optimizer == 8 * trained
    assert measured.total == measured.weights + measured.gradients + measured.optimizer + measured.activations
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())  # left as it was
    assert all(p.grad is None for p in model.parameters())


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


def test_latency_gives_quartiles_in_order(model, batch):
    times = latency({"a": model, "b": model}, batch, repeats=5)
    assert set(times) == {"a", "b"}
    assert all(0 < low <= middle <= high for low, middle, high in times.values())


def test_a_training_step_takes_longer_than_a_pass_and_leaves_the_model_as_it_was(model, batch):
    full = Full().attach(model)
    before = {name: t.clone() for name, t in full.state_dict().items()}
    times = training_time({"full": full, "LoRA": LoRA(rank=2).attach(model)}, batch, repeats=5)
    assert set(times) == {"full", "LoRA"}
    assert all(0 < low <= middle <= high for low, middle, high in times.values())
    assert times["full"][1] > latency({"full": full}, batch, repeats=5)["full"][1]
    assert all(torch.equal(t, before[name]) for name, t in full.state_dict().items())
    assert not full.training
    assert all(p.grad is None for p in full.parameters())


def test_what_cannot_be_weighed_is_refused(model, batch):
    with pytest.raises(TypeError, match="predict takes a model, got the class LoRA: attach"):
        predict(LoRA)
    with pytest.raises(TypeError, match="measure takes a model"):
        measure(LoRA(), batch)
    for function in (lambda: measure(model, task("sort+red")), lambda: latency({"a": model}, batch.tokens)):
        with pytest.raises(TypeError, match=r"expected a batch, got .*task\.batch"):
            function()
    with pytest.raises(ValueError, match="repeats must be a whole number of at least 2, got 1"):
        latency({"a": model}, batch, repeats=1)
