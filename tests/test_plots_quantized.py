"""Figures for weights in few bits: what is in their artists is what was given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from minipeft import plots
from minipeft.methods.qlora import rounding_error


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_twins_show_a_corner_of_the_weight_rounded_and_what_that_changed_on_one_scale():
    W = torch.randn(40, 48)
    axes = plots.twins(torch.nn.Parameter(W), ("nf4", "int2"), corner=20)
    assert axes.shape == (2, 3)
    images = {place: axes[place].images[0] for place in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2))}
    assert not axes[1, 0].images
    assert np.array_equal(images[0, 0].get_array(), W[:20, :20].numpy())
    for column, name in ((1, "nf4"), (2, "int2")):
        change = images[0, column].get_array() - images[0, 0].get_array()
        assert np.allclose(images[1, column].get_array(), change, atol=1e-6)
        assert f"{100 * rounding_error(W, name, 64, False):.1f} %" in axes[1, column].get_title()
    assert len({image.get_clim() for image in images.values()}) == 1
    assert "16 levels" in axes[0, 1].get_title()
    assert "3 levels" in axes[0, 2].get_title()


def test_each_kind_of_weights_has_a_row_and_each_code_a_mark_for_each_number():
    ax = plots.code_errors({"normal": {"nf4": [0.09, 0.1], "int4": 0.11}, "uniform": {"nf4": [0.08], "int4": [0.07]}})
    found = [(line.get_label(), list(line.get_xdata())) for line in ax.lines if line.get_marker() not in ("", "None")]
    assert [x for _, x in found] == [pytest.approx(x) for x in ([9, 10], [11], [8], [7])]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["nf4", "int4"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["normal", "uniform"]
    assert "%" in ax.get_xlabel()


def test_bits_are_in_order_and_seeds_are_dots_around_their_mean():
    ax = plots.by_bits({"nf4": 1.0, "nf2": 0.1, "int2": 0.0}, {"nf2": [0.5, 0.7]})
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines["nf, rounded"].get_ydata()) == [0.1, 1.0]
    assert lines["nf, then LoRA"].get_ydata() == pytest.approx([0.6])
    assert "int, then LoRA" not in lines
    assert [0.5, 0.7] in [list(line.get_ydata()) for line in ax.lines]
    assert list(ax.get_xticks()) == [2, 4]
    assert "bits" in ax.get_xlabel()
    assert "lines right" in ax.get_ylabel()
