"""Changes of an activation, token by token: what is drawn is what was given, the share is worked out another way."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from minipeft import plots


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
        assert ax.get_title() == f"{label}: {plots.common_share(change):.0%} the same for all"
        assert [text.get_text() for text in ax.get_yticklabels()] == [":", "a", "="]
        assert ax.get_xlabel()
    assert axes[0].get_ylabel()
    plt.close("all")


def test_what_did_not_change_is_white_and_not_an_error():
    ax = plots.token_changes({"BitFit": torch.zeros(2, 3)}, ["a", "b"])[0]
    assert not ax.images[0].get_array().any()
    plt.close("all")
