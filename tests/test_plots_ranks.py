"""Figures for ranks that find their places: what is in their artists is what was given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from minipeft import plots
from minipeft.plots import style


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_the_grid_has_every_rank_in_its_place_and_frames_what_is_wanted():
    ranks = {"blocks.0.attn.q": 0, "blocks.0.mlp.up": 2, "blocks.1.attn.q": [4, 5], "blocks.1.mlp.up": [0, 0]}
    ax = plots.rank_grid(ranks, wanted={"blocks.1.attn.q": 4})
    cells = {patch.get_gid(): patch for patch in ax.patches if patch.get_gid()}
    assert set(cells) == set(ranks)
    assert [cells[path].get_xy() for path in ranks] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [text.get_text() for text in ax.texts] == ["0", "2", "4.5 of 4", "0"]
    assert [to_hex(cells[path].get_facecolor()) == style.PALE for path in ranks] == [True, False, False, True]
    (frame,) = [patch for patch in ax.patches if type(patch) is Rectangle and not patch.get_fill()]
    assert frame.get_xy() == pytest.approx((0.04, 1.04))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["attn.q", "mlp.up"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0", "1"]
    assert "planted" in ax.get_xlabel()
    assert "planted" not in plots.rank_grid({"blocks.0.attn.q": 1}).get_xlabel()


def test_triplets_are_filled_where_they_are_kept_and_one_line_parts_them():
    scores = {"blocks.0.attn.q": torch.tensor([1e-3, 4.0, 0.0]), "blocks.1.mlp.up": torch.tensor([0.25, 2.0])}
    kept = {"blocks.0.attn.q": torch.tensor([False, True, False]), "blocks.1.mlp.up": torch.tensor([False, True])}
    ax = plots.triplets(scores, kept)
    drawn = [line for line in ax.lines if line.get_marker() == "o"]
    hollow = [line for line in drawn if line.get_markerfacecolor() == "white"]
    filled = [line for line in drawn if line not in hollow]
    assert [line.get_xdata().tolist() for line in filled] == [[4.0], [2.0]]
    assert np.concatenate([line.get_xdata() for line in hollow]) == pytest.approx([1e-3, 3e-4, 0.25])
    assert [set(line.get_ydata()) for line in filled] == [{0}, {1}]
    (bar,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert 0.25 < bar.get_xdata()[0] < 2.0
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0.attn.q", "1.mlp.up"]
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_where_all_triplets_are_kept_there_is_no_bar():
    ax = plots.triplets({"a": torch.ones(2)}, {"a": torch.ones(2, dtype=torch.bool)})
    assert not [line for line in ax.lines if line.get_linestyle() == ":"]
