"""Figures of weights in few bits: what is in their artists is what was given."""

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from minipeft import plots
from minipeft.methods.qlora import dequantize, levels_of, quantize, rounding_error
from minipeft.plots.style import AMOUNT
from tests.figures import labelled

pytestmark = pytest.mark.usefixtures("figures")


def test_levels_stand_at_the_levels_and_cells_have_the_colour_of_their_share():
    torch.manual_seed(0)
    values, names = torch.randn(50, 37), ("nf4", "int4", "fp4")
    ax = labelled(plots.quantization_levels(names, values, block_size=32))
    lines = [np.array([segment[0][0] for segment in c.get_segments()]) for c in ax.collections]
    assert all(np.allclose(at, levels_of(name)) for at, name in zip(lines, ("nf4", *names), strict=True))
    blocks = values.flatten()[: 1850 // 32 * 32].view(-1, 32)
    scaled = (blocks / blocks.abs().amax(1, keepdim=True)).flatten()
    cells = [patch for patch in ax.patches if type(patch) is Rectangle]
    colours, most = {}, 0
    for name in names:
        nearest = (scaled[:, None] - levels_of(name)).abs().argmin(1)
        shares = torch.bincount(nearest, minlength=len(levels_of(name))) / len(scaled)
        assert float(shares.sum()) == pytest.approx(1)
        colours[name], most = shares, max(most, float(shares.max()))
    assert len(cells) == sum(map(len, colours.values()))
    for name, shares in colours.items():
        mine, cells = cells[: len(shares)], cells[len(shares) :]
        assert sum(cell.get_width() for cell in mine) == pytest.approx(2)
        ends = [cell.get_x() for cell in mine[1:]]
        assert ends == pytest.approx(((levels_of(name)[1:] + levels_of(name)[:-1]) / 2).tolist(), abs=1e-6)
        for cell, share in zip(mine, shares, strict=True):
            assert np.allclose(cell.get_facecolor(), AMOUNT(float(share) / most), atol=0.01)
    for text, name in zip(ax.texts, names, strict=True):
        error = rounding_error(blocks, name, block_size=32, double_quant=False)
        assert text.get_text() == f"{len(levels_of(name))} levels\nerror {100 * error:.1f} %"


def test_an_outlier_spoils_its_own_block_and_larger_blocks_more_of_the_matrix():
    torch.manual_seed(0)
    W = 0.3 * torch.randn(64, 64)
    left, right = map(labelled, plots.block_error(W, outlier=30, sizes=(16, 64, 256)))
    spoiled, clean = (np.array([bar.get_height() for bar in bars]) for bars in left.containers)
    different = np.flatnonzero(~np.isclose(spoiled, clean))
    assert [left.containers[0][i].get_x() + 0.4 for i in different] == pytest.approx([32])  # 2048 = 32 · 64
    assert len(clean) == 32
    σ, expected = W.std(), []
    for values in (W.flatten(), W.flatten().index_fill(0, torch.tensor(2048), 30 * W.std())):
        for size in (16, 64, 256):
            back = dequantize(quantize(values, "nf4", size, double_quant=False), (4096,), "nf4", size)
            change = (back - values).index_fill(0, torch.tensor(2048), 0)
            expected.append(float(change.square().mean().sqrt() / σ))
            if size == 64:
                height = float(change[2048:2112].square().mean().sqrt() / σ)
                assert height == pytest.approx((spoiled if values[2048] > 20 * σ else clean)[different[0]], rel=1e-5)
    without, outlier = (line.get_ydata() for line in right.lines)
    assert [*without, *outlier] == pytest.approx(expected, rel=1e-5)
    assert all(outlier > without)
    assert [text.get_text() for text in right.get_xticklabels()] == ["16\n6", "64\n4.5", "256\n4.12"]


def test_a_matrix_too_small_for_its_blocks_is_told():
    with pytest.raises(ValueError, match=r"100 values.*need 512.*smaller"):
        plots.block_error(torch.randn(10, 10))


def test_twins_show_a_corner_of_the_weight_rounded_and_what_that_changed_on_one_scale():
    W = torch.randn(40, 48)
    axes = plots.quantized_weights(torch.nn.Parameter(W), ("nf4", "int2"), corner=20)
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
    ax = plots.quantization_errors(
        {"normal": {"nf4": [0.09, 0.1], "int4": 0.11}, "uniform": {"nf4": [0.08], "int4": [0.07]}}
    )
    found = [(line.get_label(), list(line.get_xdata())) for line in ax.lines if line.get_marker() not in ("", "None")]
    assert [x for _, x in found] == [pytest.approx(x) for x in ([9, 10], [11], [8], [7])]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["nf4", "int4"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["normal", "uniform"]
    assert "%" in ax.get_xlabel()


def test_bits_are_in_order_and_seeds_are_dots_around_their_mean():
    ax = plots.accuracy_by_bits({"nf4": 1.0, "nf2": 0.1, "int2": 0.0}, {"nf2": [0.5, 0.7]})
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines["nf, rounded"].get_ydata()) == [0.1, 1.0]
    assert lines["nf, then LoRA"].get_ydata() == pytest.approx([0.6])
    assert "int, then LoRA" not in lines
    assert [0.5, 0.7] in [list(line.get_ydata()) for line in ax.lines]
    assert list(ax.get_xticks()) == [2, 4]
    assert "bits" in ax.get_xlabel()
    assert "accuracy" in ax.get_ylabel()


def test_weights_lie_anywhere_in_their_cells_and_rounded_ones_on_their_levels():
    torch.manual_seed(0)
    W = torch.randn(64, 100)
    rounded = dequantize(quantize(W, double_quant=False), W.shape)
    left, right = axes = plots.places_in_cells({"W": W, "rounded": rounded}, reach=0.1)
    assert [ax.get_title() for ax in axes] == ["W", "rounded"]
    assert all(ax.get_xlabel() for ax in axes)
    assert labelled(left)
    (wide,), (narrow,) = ([p.get_data() for p in ax.patches if hasattr(p, "get_data")] for ax in axes)
    for values, edges, _ in (wide, narrow):
        assert sum(values) == pytest.approx(100)
        assert (edges[0], edges[-1]) == (-0.5, 0.5)
    middle = len(wide.values) // 2
    assert narrow.values[middle] == pytest.approx(100)
    assert wide.values[middle] > 100 / 64  # the largest of each block is a level
    others = np.delete(wide.values, middle)
    assert others.min() > 0.5 * others.mean()
    bands = [p for p in right.patches if type(p) is Rectangle]
    assert [band.get_x() for band in bands] == pytest.approx([-0.5, 0.5])
    assert [band.get_width() for band in bands] == pytest.approx([0.1, -0.1])


def test_a_dot_shows_what_was_learned_and_what_arrives_of_it():
    W, change = torch.linspace(0.25, 0.5, 50), torch.linspace(-0.004, 0.004, 50)
    arrived = (W.bfloat16().float() + change).bfloat16().float() - W.bfloat16().float()
    ax = labelled(plots.rounded_changes(change, arrived, most=40))
    line, dots = ax.lines
    assert np.allclose(dots.get_xdata(), 1000 * change[:40])
    assert np.allclose(dots.get_ydata(), 1000 * arrived[:40])
    assert np.allclose(line.get_xdata(), line.get_ydata())
