"""Figures of activations: what is drawn is what passed through, shares are worked out another way."""

import numpy as np
import pytest
import torch

from minipeft import plots
from minipeft.methods import Houlsby, LoRA, ParallelAdapter, Pfeiffer, PromptTuning
from minipeft.tasks import Batch
from tests.figures import labelled
from tests.models import DIM, T, close, make, rows, stirred

pytestmark = pytest.mark.usefixtures("figures")


def batch(side=None):
    _, tokens, mask = rows(side)
    return Batch(tokens, tokens, mask)


@pytest.mark.parametrize("method", [Houlsby(size=3), Pfeiffer(size=3), ParallelAdapter(size=3)], ids=str)
def test_activations_are_what_passes_through_without_padding(method):
    model, rows_ = stirred(method, make()), batch("left")
    found = plots.adapter_activations(model, rows_)
    adapters = {path: module for path, module in model.named_modules() if path.endswith(".adapter")}
    assert {f"{path}.adapter" for path in found} == set(adapters)
    for path, (h, z, out) in found.items():
        adapter = adapters[f"{path}.adapter"]
        assert [len(t) for t in (h, z, out)] == [int(rows_.mask.sum())] * 3
        assert [t.shape[1] for t in (h, z, out)] == [DIM, 3, DIM]
        close(z, adapter.act(h @ adapter.D.weight.T + adapter.D.bias))
        close(out, adapter(h))
    assert not any(module._forward_hooks for module in model.modules())


def test_activations_leave_virtual_tokens_out():
    model = Pfeiffer(size=3).attach(PromptTuning(length=2).attach(make()))
    _, tokens, _ = rows()
    whole = []
    hook = model.blocks[0].adapter.register_forward_hook(lambda adapter, inputs, output: whole.append(inputs[0]))
    (h, *_), *_ = plots.adapter_activations(model, Batch(tokens, tokens)).values()
    hook.remove()
    assert whole[0].shape[1] == 2 + T
    close(h, whole[0][:, 2:].flatten(0, 1))


def test_a_model_without_bottlenecks_is_told():
    with pytest.raises(ValueError, match=r"no bottlenecks.*attach Houlsby"):
        plots.adapter_activations(LoRA().attach(make()), batch())


def test_the_bottleneck_shows_shares_of_variance_and_how_many_directions_hold_enough():
    torch.manual_seed(0)
    h = torch.randn(400, 12) + 5  # a mean is no variance
    z = torch.randn(400, 2) @ torch.tensor([[10.0, 0, 0, 0, 0], [0, 1, 0, 0, 0]])
    out = torch.randn(400, 3) @ torch.randn(3, 12)
    ax = labelled(plots.bottleneck((h, z, out)))
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    for line, X in zip(lines, (h, z, out), strict=True):
        values = np.linalg.eigvalsh(np.cov(X.numpy().astype(float).T))[::-1]
        assert np.allclose(line.get_ydata(), np.cumsum(values) / values.sum(), atol=1e-6)
        assert line.get_ydata()[-1] == pytest.approx(1)
    assert [len(line.get_xdata()) for line in lines] == [12, 5, 12]
    assert lines[2].get_ydata()[2] == pytest.approx(1)  # of rank 3
    assert lines[1].get_label() == "inside: z = φ(D h), m = 5; 1 holds 90%"
    assert float(plots.explained_variance(h).sum()) == pytest.approx(1)
    rings = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert all(line.get_ydata()[0] >= 0.9 for line in rings)
    assert [int(line.get_xdata()[0]) for line in rings][1] == 1


def test_the_common_share_is_one_for_a_shift_and_none_for_what_cancels():
    shift = torch.arange(1.0, 6).expand(4, 5)
    away = torch.tensor([[1.0, 2], [-1, -2]])
    assert plots.common_share(shift) == pytest.approx(1)
    assert plots.common_share(away) == pytest.approx(0)
    mixed = torch.randn(7, 3)
    rest = (mixed - mixed.mean(0)).square().sum() / mixed.square().sum()  # Pythagoras: shared and own part add up
    assert plots.common_share(mixed) == pytest.approx(1 - rest.item(), abs=1e-5)


def test_each_method_has_a_map_on_its_own_scale_with_the_words_and_the_share():
    changes = {"BitFit": torch.ones(3, 4), "LoRA": 5 * torch.randn(3, 4)}
    axes = plots.token_changes(changes, [":", "a", "="])
    for ax, (label, change) in zip(axes, changes.items(), strict=True):
        image = ax.images[0]
        assert np.allclose(image.get_array(), change)
        limit = change.abs().max().item()
        assert image.get_clim() == pytest.approx((-limit, limit))
        assert ax.get_title() == f"{label}: {plots.common_share(change):.0%} shared by all tokens"
        assert [text.get_text() for text in ax.get_yticklabels()] == [":", "a", "="]
        assert ax.get_xlabel()
    assert axes[0].get_ylabel()
    assert [bar.get_ylabel() for bar in axes[0].figure.axes[2:]] == ["", "change"]


def test_what_did_not_change_is_white_and_not_an_error():
    ax = plots.token_changes({"BitFit": torch.zeros(2, 3)}, ["a", "b"])[0]
    assert not ax.images[0].get_array().any()
