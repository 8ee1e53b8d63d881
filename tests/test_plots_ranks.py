"""Figures of ranks: what is in their artists is what was given."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from minipeft import plots
from minipeft.methods import AdaLoRA
from minipeft.plots.style import PALE
from tests.figures import labelled

pytestmark = pytest.mark.usefixtures("figures")


def test_the_rank_map_has_every_rank_at_its_time_and_their_sum_on_the_budget():
    method, steps = AdaLoRA(rank=1, initial_rank=2, interval=5), 40
    histories = {
        "blocks.0.attn.q": [(0, 2), (10, 2), (15, 1), (28, 0)],
        "blocks.1.mlp.up": [(0, 2), (10, 1), (15, 1), (28, 2)],
    }
    budget = [method.budget(t, steps, 2) for t in range(steps + 1)]
    above, below = plots.rank_history(histories, budget)
    (mesh,) = below.collections
    assert np.asarray(mesh.get_array()).reshape(2, 4).tolist() == [[2, 2, 1, 0], [2, 1, 1, 2]]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0, 10, 15, 28, steps]
    assert [text.get_text() for text in below.texts] == list("22102112")
    assert [text.get_text() for text in below.get_yticklabels()] == ["0.attn.q", "1.mlp.up"]
    assert below.yaxis_inverted()
    line, dots = above.lines
    assert line.get_ydata().tolist() == budget
    assert (dots.get_xdata().tolist(), dots.get_ydata().tolist()) == ([0, 10, 15, 28], [4, 3, 2, 2])
    labelled(below)
    assert above.get_ylabel()


def test_the_grid_has_every_rank_in_its_place_and_frames_what_is_wanted():
    ranks = {"blocks.0.attn.q": 0, "blocks.0.mlp.up": 2, "blocks.1.attn.q": [4, 5], "blocks.1.mlp.up": [0, 0]}
    ax = plots.rank_grid(ranks, wanted={"blocks.1.attn.q": 4})
    cells = {patch.get_gid(): patch for patch in ax.patches if patch.get_gid()}
    assert set(cells) == set(ranks)
    assert [cells[path].get_xy() for path in ranks] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [text.get_text() for text in ax.texts] == ["0", "2", "4.5 of 4", "0"]
    assert [to_hex(cells[path].get_facecolor()) == PALE for path in ranks] == [True, False, False, True]
    (frame,) = [patch for patch in ax.patches if type(patch) is Rectangle and not patch.get_fill()]
    assert frame.get_xy() == pytest.approx((0.04, 1.04))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["attn.q", "mlp.up"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0", "1"]
    assert "planted" in ax.get_xlabel()
    assert "planted" not in plots.rank_grid({"blocks.0.attn.q": 1}).get_xlabel()


def test_triplets_are_filled_where_they_are_kept_and_one_line_parts_them():
    scores = {"blocks.0.attn.q": torch.tensor([1e-3, 4.0, 0.0]), "blocks.1.mlp.up": torch.tensor([0.25, 2.0])}
    kept = {"blocks.0.attn.q": torch.tensor([False, True, False]), "blocks.1.mlp.up": torch.tensor([False, True])}
    ax = plots.triplet_scores(scores, kept)
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
    ax = plots.triplet_scores({"a": torch.ones(2)}, {"a": torch.ones(2, dtype=torch.bool)})
    assert not [line for line in ax.lines if line.get_linestyle() == ":"]
