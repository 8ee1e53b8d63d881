"""Every figure takes data and gives Axes, labelled, with what the data say in it."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from minipeft import deltas, plots
from minipeft.methods import LoRA
from minipeft.training import History
from minipeft.transformer import Config, Transformer
from minipeft.wrapping import trainable


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def labelled(ax):
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    return ax


def test_curves_smooth_and_bear_short_runs():
    ax = labelled(plots.curves({"LoRA(rank=1)": History(loss=[2.0] * 30), "Full": History(loss=[2.0] * 3)}))
    assert [len(line.get_xdata()) for line in ax.lines] == [21, 1]
    assert all(np.allclose(line.get_ydata(), 2) for line in ax.lines)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["LoRA(rank=1)", "Full"]


def test_low_rank_blocks_have_their_true_proportion():
    ax = plots.low_rank(torch.randn(3, 20), torch.randn(12, 3), scale=2.0)
    extents = [image.get_extent() for image in ax.images]
    assert [(x1 - x0, y1 - y0) for x0, x1, y0, y1 in extents] == [(3, 12), (20, 3), (20, 12)]
    B, A, product = (np.asarray(image.get_array()) for image in ax.images)
    assert np.allclose(product, 2 * B @ A, atol=1e-5)


def test_spectrum_shows_the_rank():
    delta = torch.randn(9, 3) @ torch.randn(3, 8)
    ax = labelled(plots.spectrum({"LoRA(rank=3)": delta, "Full": torch.randn(9, 8)}))
    lengths = [len(line.get_xdata()) for line in ax.lines if line.get_linestyle() == "-"]
    assert lengths == [3, 8]
    assert ax.get_yscale() == "log"


def test_what_moved_is_grey_where_nothing_did():
    model = LoRA(targets=("q",)).attach(Transformer(Config(vocab=9, dim=8, heads=2, ff=12, context=10)))
    with torch.no_grad():
        for p in trainable(model).values():
            p.normal_()
    ax = plots.what_moved(model, deltas.updates(model))
    colours = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in ax.patches]
    moved = [colour for colour in colours if colour != "#e6e6e6"]
    assert len(moved) == 2  # a q in each of two blocks
    assert len(colours) == len([*model.parameters()]) - 4  # without A and B


def test_pareto_has_a_point_and_a_name_for_each_method():
    rows = [
        {"method": "LoRA(rank=1)", "parameters": 512, "accuracy": [0.2, 0.4]},
        {"method": "Full", "parameters": 99999, "accuracy": [1.0]},
    ]
    ax = labelled(plots.pareto(rows))
    assert [t.get_text() for t in ax.texts] == ["LoRA(rank=1)", "Full"]
    assert [t.xy for t in ax.texts] == [(512, pytest.approx(0.3)), (99999, 1.0)]


def test_attention_maps_are_labelled_by_words():
    weights = torch.rand(2, 4, 4).softmax(-1)
    ax = labelled(plots.attention(weights[0], ["a", "b", "c", "d"]))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c", "d"]


def test_shades_tell_apart_and_keep_the_hue():
    colours = plots.shades(["LoRA(rank=1)", "LoRA(rank=2)", "Full", "planted", "other"])
    assert len(set(colours)) == 5
    assert matplotlib.colors.to_hex(colours[0]) == plots.HUES["LoRA"]
