"""The kit of boxes and arrows: what is asked for is drawn where it was asked for."""

import pytest
from matplotlib.colors import to_hex

from minipeft import plots
from minipeft.plots.boxes import arrow, box, disc, funnel, sheet, sign
from minipeft.plots.style import INK, PALE, darker

pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture
def ax():
    return sheet(plots.new(4, 2), 40, 20)


def test_a_box_has_its_text_in_the_middle_in_a_colour_that_can_be_read(ax):
    patch = box(ax, 2, 4, 10, 6, "W", gid="weight")
    box(ax, 20, 4, 10, 6, "B", "#000000")
    box(ax, 20, 12, 10, 6)
    assert (patch.get_xy(), patch.get_width(), patch.get_height(), patch.get_gid()) == ((2, 4), 10, 6, "weight")
    assert to_hex(patch.get_facecolor()) == PALE
    assert to_hex(patch.get_edgecolor()) == to_hex(darker(PALE))
    assert [(t.get_text(), t.get_position(), t.get_color()) for t in ax.texts] == [
        ("W", (7, 7), INK), ("B", (25, 7), "white"),
    ]  # fmt: skip


def test_a_funnel_narrows_or_opens(ax):
    funnel(ax, 0, 0, 10, 8, "A")
    funnel(ax, 20, 0, 10, 8, "B", opens=True)
    narrows, opens = ([y for x, y in patch.get_xy()[:4]] for patch in ax.patches)
    assert narrows == [0, 8, 6, 2]
    assert opens == [2, 6, 8, 0]


def test_an_arrow_goes_through_its_points_and_says_what_flows(ax):
    arrow(ax, (1, 1), (1, 10), (12, 10), text="(…, r)")
    assert ax.lines[0].get_xydata().tolist() == [[1, 1], [1, 10]]
    head, said = ax.texts
    assert (head.xyann, head.xy) == ((1, 10), (12, 10))
    assert said.get_position() == (1, 10.9)


def test_signs_and_numbers_stand_on_a_disc(ax):
    sign(ax, 5, 5, "×")
    disc(ax, 15, 5, 1, "#000000")
    disc(ax, 25, 5, 2, "white", "#0072b2")
    assert [(t.get_text(), t.get_color()) for t in ax.texts] == [("×", INK), ("1", "white"), ("2", "#0072b2")]
    assert [line.get_markerfacecolor() for line in ax.lines] == ["#000000", "white"]
