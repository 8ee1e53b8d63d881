"""Figures for fine-tuning as such: what is in their artists is what was given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minipeft import plots
from minipeft.costs import Memory


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_the_bill_is_drawn_in_shares_with_its_total():
    ax = plots.memory({"small": Memory(400, 400, 800, 400), "large": Memory(26 * 10**9, 10**9, 2 * 10**9)})
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(2, 4)
    assert widths[0] == pytest.approx([0.2, 0.2, 0.4, 0.2])
    assert widths.sum(1) == pytest.approx(1)
    starts = np.array([bar.get_x() for bar in ax.patches]).reshape(2, 4)
    assert starts[:, 1:] == pytest.approx(np.cumsum(widths, 1)[:, :-1])  # one behind the other
    texts = [text.get_text() for text in ax.texts]
    assert "2 KB" in texts
    assert "29 GB" in texts
    assert "40%" in texts
    assert "3%" not in texts  # no room
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(plots.finetuning.PARTS)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["small", "large"]
    assert "memory" in ax.get_xlabel()


def test_learned_and_kept_are_drawn_for_every_seed():
    traces = {"hot": [[(0, 0.0, 1.0), (5, 0.9, 0.1)], [(0, 0.0, 1.0), (5, 0.7, 0.2)]], "mild": [[(0, 0.0, 1.0)]]}
    axes = plots.forgetting(traces)
    assert [ax.get_title() for ax in axes] == ["hot", "mild"]
    drawn = [(line.get_linestyle(), list(line.get_ydata())) for line in axes[0].lines]
    assert drawn == [("-", [0.0, 0.9]), ("--", [1.0, 0.1]), ("-", [0.0, 0.7]), ("--", [1.0, 0.2])]
    assert list(axes[0].lines[0].get_xdata()) == [0, 5]
    assert [text.get_text() for text in axes[-1].get_legend().get_texts()] == ["new task", "old tasks"]
    assert "step" in axes[0].get_xlabel()
    assert "share" in axes[0].get_ylabel()
