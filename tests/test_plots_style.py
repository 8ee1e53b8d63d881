"""The palette and the frames of all figures: methods are told apart, text can be read."""

import matplotlib
import numpy as np
import pytest

from minipeft import plots
from minipeft.methods import METHODS
from minipeft.plots import style
from minipeft.plots.style import FAMILIES, HUES, contrast, dash, mark, readable, shades
from tests.figures import flaws

pytestmark = pytest.mark.usefixtures("figures")


def views(colour):
    """Lightness and two hues (CIELAB) of a colour as it is, and as seen without green cones (Machado et al. 2009)."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    for light in (linear, np.clip(np.array(seen) @ linear, 0, 1)):
        x, y, z = np.cbrt(np.maximum(np.array(xyz) @ light / (0.9505, 1, 1.089), 1e-4))
        yield np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_method_has_a_look_of_its_own():
    assert set(METHODS) <= set(HUES)
    looks = {name: str(sorted(mark(name).items())) for name in HUES}
    assert len(set(looks.values())) == len(HUES)
    assert mark("PTuning(length=4)")["marker"] == mark("PromptTuning")["marker"] != mark("LoRA")["marker"]
    assert mark("planted")["marker"] == "o"
    assert dash("Full") == dash("LoRA(rank=2)") == dash("planted") == "-"
    for members in FAMILIES.values():
        assert len({dash(name) for name in members}) == len(members)


def test_hues_are_told_apart_without_green_cones_and_in_a_family_without_any():
    seen = {name: list(views(hue)) for name, hue in {**HUES, "frozen": plots.FROZEN}.items()}
    for a in seen:
        for b in list(seen)[: list(seen).index(a)]:
            for one, other in zip(seen[a], seen[b], strict=True):
                assert np.linalg.norm(one - other) > 10, (a, b)
            if any({a, b} <= set(members) for members in FAMILIES.values()):
                assert abs(seen[a][0][0] - seen[b][0][0]) > 9, (a, b)


def test_what_is_no_method_does_not_take_the_hue_of_one_beside_it():
    colours = [matplotlib.colors.to_hex(colour) for colour in shades(["PromptTuning", "planted"])]
    assert colours == [HUES["PromptTuning"], plots.SPARE[1]]


def test_shades_tell_apart_and_keep_the_hue():
    colours = shades(["LoRA(rank=1)", "LoRA(rank=2)", "Full", "planted", "other"])
    assert len(set(colours)) == 5
    assert matplotlib.colors.to_hex(colours[0]) == HUES["LoRA"]


def test_text_can_be_read_on_every_colour():
    assert [readable(colour) for colour in ("#ffffff", "#56b4e9", "#002b4d", "#000000")] == [
        plots.INK, plots.INK, "white", "white",
    ]  # fmt: skip
    for amount in np.linspace(0, 1, 50):
        colour = plots.AMOUNT(amount)[:3]
        assert contrast(readable(colour), colour) >= 4.5, amount


def test_a_heatmap_leaves_out_what_is_masked_and_counts_from_where_it_is_told():
    ax = plots.new(3, 3)
    style.heatmap(ax, np.ma.masked_greater([[0.0, 1.0], [0.5, 9.0]], 2), plots.AMOUNT, 0, 1, "{:.1f}", first=1)
    assert [(t.get_text(), t.get_position()) for t in ax.texts] == [("0.0", (1, 1)), ("1.0", (2, 1)), ("0.5", (1, 2))]
    assert [t.get_color() for t in ax.texts] == [plots.INK, "white", "black"]
    assert ax.images[0].get_extent() == [0.5, 2.5, 2.5, 0.5]
    ax.set(xticks=[1, 2], yticks=[1, 2])


def test_a_grid_has_a_cell_for_each_row_and_column():
    ax = style.grid(plots.new(3, 3), ["a", "b"], ["x", "y", "z"])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y", "z"]
    assert ax.get_xticks().tolist() == [0.5, 1.5, 2.5]
    assert ax.get_ylim() == (2, 0), "rows are counted downwards"


def test_names_are_short_in_figures():
    assert style.short("blocks.0.attn.q.weight") == "0.attn.q"
    assert style.short("head.bias") == "head"


def test_what_cannot_be_read_is_found():
    ax = plots.new(10, 3)
    ax.figure.set_layout_engine("none")
    ax.set_axis_off()
    ax.text(0.5, 0.5, "small", fontsize=7)
    ax.text(0.5, 0.5, "small", fontsize=9)
    ax.text(1.1, 0.9, "too far to the right", fontsize=9)
    found = flaws(ax.figure)
    plots.plt.close("all")
    assert found == [
        "10.0 inches wide", "'small' has 7 points", "'small' covers 'small'",
        "'too far to the right' leaves the figure",
    ]  # fmt: skip
