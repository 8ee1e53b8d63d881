"""Figures of weights and their changes: what is in their artists is worked out here another way."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from minipeft import deltas, plots
from minipeft.attach import attachments, detach, trainable
from minipeft.methods import (
    BitFit,
    DoRA,
    LoRA,
    VeRA,
)
from minipeft.models.transformer import Config, Transformer
from minipeft.plots.style import HUES, PALE, shades
from tests.figures import labelled
from tests.models import LAYERS, make, stirred

pytestmark = pytest.mark.usefixtures("figures")


def test_low_rank_blocks_have_their_true_proportion():
    ax = plots.low_rank(torch.randn(3, 20), torch.randn(12, 3), scale=2.0)
    extents = [image.get_extent() for image in ax.images]
    assert [(x1 - x0, y1 - y0) for x0, x1, y0, y1 in extents] == [(3, 12), (20, 3), (20, 12)]
    B, A, product = (np.asarray(image.get_array()) for image in ax.images)
    assert np.allclose(product, 2 * B @ A, atol=1e-5)


def test_spectrum_shows_the_rank():
    delta = torch.randn(9, 3) @ torch.randn(3, 8)
    ax = labelled(plots.spectrum({"LoRA(rank=3)": delta, "Full": torch.randn(9, 8)}))
    lengths = [len(line.get_xdata()) for line in ax.lines if not line.get_label().startswith("_")]
    assert lengths == [3, 8]
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("size", [8, 40])
def test_equal_spectra_do_not_hide_each_other(size):
    delta = torch.randn(size, size)
    ax = plots.spectrum({"Full": delta, "LoRA(rank=4)": delta, "LoRA(rank=2)": delta})
    drawn = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert len({line.get_marker() for line in drawn}) == 3
    if size == 8:
        assert len({line.get_xdata()[0] for line in drawn}) == 3  # side by side, round their index
        assert np.mean([line.get_xdata()[0] for line in drawn]) == pytest.approx(1)


def test_the_principal_part_is_coloured_and_its_share_told():
    W = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0]))
    (ax,) = plots.principal_singular_values({"blocks.0.attn.q.weight": W}, rank=1)
    heights = {bar.get_x() + bar.get_width() / 2: (bar.get_height(), to_hex(bar.get_facecolor())) for bar in ax.patches}
    assert [heights[i][0] for i in (1, 2, 3, 4)] == pytest.approx([4, 2, 1, 0])
    assert heights[1][1] == HUES["PiSSA"]
    assert {heights[i][1] for i in (2, 3, 4)} == {plots.FROZEN}
    assert ax.get_title() == f"0.attn.q: {16 / 21:.0%} of the energy in the first 1"
    assert ax.get_xlabel()
    assert ax.get_ylabel()


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


def tiles(ax):
    """The tiles that stand for tensors, by name."""
    return {patch.get_gid(): patch for patch in ax.patches if patch.get_gid()}


def test_biases_have_the_colour_and_the_number_of_their_relative_change():
    model = stirred(BitFit(targets=("attn.k", "mlp.up")), make())
    ax = labelled(plots.bias_changes(model))
    shown = tiles(ax)
    numbers = {(text.get_position()[0], text.get_position()[1]): text.get_text() for text in ax.texts}
    updates = deltas.updates(model)
    assert len(updates) == len(numbers) == 2 * LAYERS
    assert set(shown) == {name[:-5] for name, _ in detach(model).named_parameters() if name.endswith(".bias")}
    for name, (b, change) in updates.items():
        tile = shown[name.removesuffix(".bias")]
        value = float(change.norm() / b.norm())
        assert numbers[tile.get_x() + 0.5, tile.get_y() + 0.5] == f"{value:.2f}"
        assert to_hex(tile.get_facecolor()) != PALE
        assert tile.get_x() == int(name.split(".")[1])
    frozen = set(shown) - {name.removesuffix(".bias") for name in updates}
    assert {to_hex(shown[name].get_facecolor()) for name in frozen} == {PALE}
    assert [text.get_text() for text in ax.get_yticklabels()].count("attn.k (idle)") == 1
    assert "grey: frozen" in ax.figure.axes[-1].get_ylabel()


def test_biases_may_have_the_number_of_their_absolute_change_and_nothing_is_grey_where_all_moved():
    model = stirred(BitFit(), make())
    ax = labelled(plots.bias_changes(model, relative=False))
    values = {float(change.norm()) for name, (_, change) in deltas.updates(model).items() if name.endswith(".bias")}
    digits = 1 if max(values) >= 10 else 2
    assert {text.get_text() for text in ax.texts} == {f"{value:.{digits}f}" for value in values}
    assert ax.figure.axes[-1].get_ylabel() == "‖Δb‖"


def test_the_bias_that_moved_more_is_darker():
    model = BitFit(targets=("mlp.up",)).attach(make())
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            block.mlp.up.bias *= 1 + 0.1 * 3**i
    shown = tiles(plots.bias_changes(model))
    faces = [shown[f"blocks.{i}.mlp.up"].get_facecolor() for i in range(LAYERS)]
    assert sorted(faces, key=sum, reverse=True) == faces
    assert len(set(faces)) == LAYERS


def dots(ax):
    """Angles and ratios of the rows, and of the medians of the matrices."""
    lines = {line.get_label(): line for line in ax.lines if line.get_marker() not in ("None", "", None)}
    (cloud,) = [line for label, line in lines.items() if label.startswith("_")]
    medians = {label: line for label, line in lines.items() if not label.startswith("_")}
    return cloud, medians


def test_lengths_and_directions_are_told_apart():
    W = torch.eye(3, 4)
    turned = torch.tensor([[0.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, -2, 0]])  # by 90°, 45°, 180°
    updates = {
        "Full": {"blocks.0.attn.q.weight": (W, W), "only.weight": (W, W)},
        "LoRA(rank=4)": {"blocks.0.attn.q.weight": (W, turned - W), "bias": (W[0], W[0])},
    }
    axes = [labelled(ax) if i == 0 else ax for i, ax in enumerate(plots.magnitude_direction(updates))]
    longer, medians = dots(axes[0])
    assert longer.get_xdata().tolist() == [0, 0, 0]
    assert longer.get_ydata().tolist() == [2, 2, 2]
    assert list(medians) == ["0.attn.q"]  # the only one that both changed
    other, medians = dots(axes[1])
    assert other.get_xdata().tolist() == pytest.approx([90, 45, 180])
    assert other.get_ydata().tolist() == pytest.approx([1, math.sqrt(2), 2])
    assert (float(medians["0.attn.q"].get_xdata()[0]), float(medians["0.attn.q"].get_ydata()[0])) == pytest.approx(
        (90, math.sqrt(2))
    )
    assert axes[0].get_yscale() == axes[1].get_yscale() == "log"
    for ax in axes:  # all can be seen, in the same frame
        assert ax.get_xlim() == axes[0].get_xlim()
        assert ax.get_xlim()[1] > 180
        assert ax.get_ylim()[0] < 1 < 2 < ax.get_ylim()[1]
    assert to_hex(longer.get_color()) == to_hex(shades(["Full"])[0])


def test_a_change_at_right_angles_lies_on_the_dotted_line():
    torch.manual_seed(0)
    W, ΔW = torch.randn(20, 8), torch.randn(20, 8)
    ΔW -= (ΔW * W).sum(1, keepdim=True) / (W * W).sum(1, keepdim=True) * W
    (ax,) = plots.magnitude_direction({"DoRA": {"q": (W, ΔW)}})
    (curve,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    cloud, _ = dots(ax)
    expected = np.interp(cloud.get_xdata(), curve.get_xdata(), curve.get_ydata())
    assert np.allclose(cloud.get_ydata(), expected, rtol=1e-2)


def test_the_correlation_is_told_and_dora_can_leave_lengths_alone():
    model = DoRA(rank=2).attach(make())
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in (block.attn.q for block in model.blocks):
            layer.B.normal_()
    (ax,) = plots.magnitude_direction({"DoRA(rank=2)": deltas.updates(model)})
    cloud, medians = dots(ax)
    assert np.allclose(cloud.get_ydata(), 1, atol=1e-5)
    assert float(medians["0.attn.q"].get_xdata()[0]) > 10
    torch.manual_seed(0)
    W, ΔW = torch.randn(30, 8), torch.randn(30, 8)
    (ax,) = plots.magnitude_direction({"Full": {"q": (W, ΔW)}})
    cloud, _ = dots(ax)
    r = np.corrcoef(cloud.get_xdata(), np.abs(np.log2(cloud.get_ydata())))[0, 1]
    assert ax.get_title() == f"Full, r = {r:.2f}"


def test_methods_that_share_no_matrix_are_told():
    W = torch.randn(3, 3)
    with pytest.raises(ValueError, match="same targets"):
        plots.magnitude_direction({"Full": {"q": (W, W)}, "LoRA": {"v": (W, W)}})


def test_the_shared_pair_stands_once_above_the_vectors_of_every_layer():
    model = VeRA(rank=5).attach(make())
    layers = list(attachments(model)[0].layers.values())
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in layers:
            layer.d.normal_()
            layer.b.normal_()
    above, below = plots.vera_vectors(model)
    for ax, matrix in zip(above, (layers[0].shared.A, layers[0].shared.B), strict=True):
        assert " × ".join(map(str, matrix.shape)) in ax.texts[0].get_text()
        assert to_hex(ax.patches[0].get_facecolor()) == PALE
    for ax, which in zip(below, "db", strict=True):
        shown = ax.images[0].get_array()
        assert np.allclose(shown, torch.stack([getattr(layer, which).detach() for layer in layers]))
        assert ax.get_yticklabels()[0].get_text() == "0.attn.q"
        assert ax.get_xlabel().startswith(which)


def test_without_vera_there_is_no_pair_to_show():
    with pytest.raises(ValueError, match="no VeRA"):
        plots.vera_vectors(LoRA().attach(make()))
