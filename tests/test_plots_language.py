"""Figures of a real language model's parts."""

import numpy as np
import pytest

from minipeft import plots
from minipeft.published.gguf import STORED

pytestmark = pytest.mark.usefixtures("figures")


def hands(ax):
    """The directions of the clocks' hands, in the order in which they are drawn."""
    lines = [line.get_xydata() for line in ax.lines if len(line.get_xdata()) == 2]
    return np.array([np.arctan2(*(tip - middle)[::-1]) for middle, tip in lines])


def test_each_pair_is_turned_by_its_angle_at_each_position():
    ax = plots.rotations(base=100.0, size=4, pairs=(0, 1), positions=(0, 1, 2_000))
    assert hands(ax) == pytest.approx([0, 1, np.angle(np.exp(2000j)), 0, 0.1, np.angle(np.exp(200j))])
    said = [text.get_text() for text in ax.texts]
    assert "pair 0: 57° a position" in said
    assert "pair 1: 5.7° a position" in said
    assert {"0", "1", "2,000"} <= set(said)


def test_heads_that_share_keys_stand_above_them():
    ax = plots.shared_heads(heads=4, kv_heads=2)
    said = [text.get_text() for text in ax.texts]
    assert [word for word in said if word.startswith("q") and len(word) == 2] == ["q0", "q1", "q2", "q3"]
    assert [word for word in said if word.startswith("k") and word[1].isdigit()] == ["k0, v0", "k1, v1"]
    boxes = [patch.get_bbox() for patch in ax.patches if hasattr(patch, "get_bbox")]
    queries, keys = sorted((b for b in boxes if b.y0 > 10), key=lambda b: b.x0), [b for b in boxes if b.y0 < 10]
    assert [keys[i // 2].x0 <= q.x0 and q.x1 <= keys[i // 2].x1 for i, q in enumerate(queries)] == [True] * 4


def test_a_block_shows_its_weights_and_the_levels_they_lie_on():
    block = np.zeros((), STORED["Q4_1"])
    block["d"], block["m"], block["codes"] = 0.5, -2.0, np.arange(16) + 16 * (15 - np.arange(16))
    ax = plots.quantized_block(block)
    (weights,) = [line.get_ydata() for line in ax.lines if line.get_marker() == "o"]
    assert weights == pytest.approx(-2 + 0.5 * np.r_[0:16, 15:-1:-1])
    levels = [line.get_ydata()[0] for line in ax.lines if line.get_marker() != "o"]
    assert set(np.round(weights, 6)) <= set(np.round(levels, 6))
    ax.figure.canvas.draw()
    (codes,) = [other for other in ax.figure.axes if other is not ax]
    assert codes.get_ylim() == pytest.approx((np.array(ax.get_ylim()) + 2) / 0.5)
