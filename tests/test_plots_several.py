"""Figures for several tasks: what is in their artists is what was given."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from minipeft import plots


@pytest.fixture(autouse=True)
def close():
    yield
    plots.plt.close("all")


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_a_mixed_batch_shows_every_word_and_colours_the_answers_by_task():
    rows = [list(":ab=ba"), list(":cd=cd"), list(":ef=fe")]
    ax = plots.mixed_batch(rows, ["reverse", None, "reverse"], given=4)
    assert words(ax) == [word for row in rows for word in row]
    faces = np.array([patch.get_facecolor() for patch in ax.patches]).reshape(3, 6, 4)
    assert (faces[:, :4] == 1).all()  # what was given is white
    assert tuple(faces[1, 4]) == to_rgba(plots.FROZEN)
    assert (faces[0, 4:] == faces[2, 4:]).all()
    assert not (faces[0, 4] == faces[1, 4]).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["reverse", "bare base", "reverse"]
    assert "delta" in ax.get_ylabel()


def test_tasks_in_a_row_are_maps_of_shares_on_one_scale():
    shares = [[1.0, 0.0], [0.25, 0.9]]
    axes = plots.one_after_the_other({"one model": shares, "deltas": np.eye(2)}, ["reverse", "blue"])
    assert [ax.get_title() for ax in axes] == ["one model", "deltas"]
    assert np.array_equal(axes[0].images[0].get_array(), shares)
    assert {ax.images[0].get_clim() for ax in axes} == {(0, 1)}
    assert words(axes[0]) == ["1.00", "0.00", "0.25", "0.90"]
    assert [text.get_position() for text in axes[0].texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["reverse", "blue"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["1: reverse", "2: blue"]


def test_along_a_line_the_means_are_joined_and_every_seed_has_a_dot():
    found = {"between": {"reverse": {0: [1.0, 0.8], 1: [0.0, 0.0]}}, "beyond": {"both": {0.5: [0.2]}}}
    axes = plots.along(found, ["share", "λ"])
    assert [ax.get_xlabel() for ax in axes] == ["share", "λ"]
    mean, *dots = axes[0].lines
    assert list(mean.get_xdata()) == [0, 1]
    assert list(mean.get_ydata()) == pytest.approx([0.9, 0])
    assert [(list(dot.get_xdata()), list(dot.get_ydata())) for dot in dots] == [([0, 0], [1.0, 0.8]), ([1, 1], [0, 0])]
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["both"]
    assert "share" in axes[0].get_ylabel()
