"""Figures that are tables: every cell has what was given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba

from minipeft import plots
from minipeft.plots.style import HUES, PALE
from minipeft.plots.tables import goodness

pytestmark = pytest.mark.usefixtures("figures")


def test_less_is_better_unless_it_is_a_share():
    assert goodness([0.25, 1.0, None], more=True) == [0.25, 1.0, None]
    assert goodness([False, True], more=True) == [0.0, 1.0]
    assert goodness([2, 4, 3], more=False) == [1.0, 0.0, 0.5]
    assert goodness([5, 5, None], more=False) == [1.0, 1.0, None]
    assert goodness([1, 10, 100], more=False) == pytest.approx([1.0, 0.5, 0.0])  # by the logarithm
    assert goodness([0, 4], more=False) == [1.0, 0.0]
    assert goodness([None], more=False) == [None]


def test_the_sheet_has_a_row_for_each_method_and_a_cell_for_each_number():
    table = {
        "Full": {"exact-match\naccuracy": 1.0, "trained": 109_372, "merges": True},
        "LoRA(rank=4)": {"exact-match\naccuracy": None, "trained": 2_048, "merges": False},
    }
    ax = plots.scorecard(table, more=("exact-match\naccuracy", "merges"))
    assert [t.get_text() for t in ax.texts] == ["1.00", "–", "109,372", "2,048", "yes", "no"]
    assert [t.get_text() for t in ax.get_xticklabels()] == list(table["Full"])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(table)
    colours = [to_hex(patch.get_facecolor()) for patch in ax.patches]
    assert colours[1] == to_hex(PALE)  # not measured
    assert colours[2] == colours[5] == "#ffffff"  # the worst: most numbers, cannot be merged
    assert colours[0] == colours[3] == colours[4]


def test_a_long_name_of_a_column_is_broken():
    ax = plots.scorecard({"Full": {"training memory, kB": 1, "of\nmine, and long": 2}})
    assert [t.get_text() for t in ax.get_xticklabels()] == ["training\nmemory, kB", "of\nmine, and long"]


def test_every_answer_leads_to_a_box_and_methods_have_their_hue():
    tree = (
        "Does it know?",
        {
            "yes": ("PromptTuning", "1.00 from 8 examples"),
            "no": ("Scarce?", {"time": ("LoRA", "merged"), "not": ("Full", "all")}),
        },
    )
    ax = plots.decision_tree(tree)
    texts = [t.get_text() for t in ax.texts]
    for said in ("Does it know?", "Scarce?", "yes", "no", "time", "not", "PromptTuning", "merged", "LoRA", "Full"):
        assert said in texts
    colours = [to_hex(patch.get_facecolor()) for patch in ax.patches]
    assert len(colours) == 5
    assert {HUES[name] for name in ("PromptTuning", "LoRA", "Full")} < set(colours)
    assert len(ax.lines) == 4
    top, bottom = ax.get_ylim()[1], ax.get_ylim()[0]
    assert all(top < t.get_position()[1] < bottom for t in ax.texts)


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
    axes = plots.accuracy_matrix({"one model": shares, "deltas": np.eye(2)}, ["reverse", "blue"])
    assert [ax.get_title() for ax in axes] == ["one model", "deltas"]
    assert np.array_equal(axes[0].images[0].get_array(), shares)
    assert {ax.images[0].get_clim() for ax in axes} == {(0, 1)}
    assert words(axes[0]) == ["1.00", "0.00", "0.25", "0.90"]
    assert [text.get_position() for text in axes[0].texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["reverse", "blue"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["1: reverse", "2: blue"]


@pytest.mark.parametrize("shape", [(7,), (4, 3), (2, 3, 5)])
def test_what_a_check_found_is_drawn_on_one_scale(shape):
    expected = np.arange(np.prod(shape)).reshape(shape) / 7 - 1
    axes = plots.differences(expected, 2 * expected)
    first, second, third = (ax.images[0] for ax in axes)
    np.testing.assert_allclose(second.get_array(), 2 * first.get_array())
    np.testing.assert_allclose(third.get_array(), first.get_array())
    assert first.get_clim() == second.get_clim() == third.get_clim()
    assert [ax.get_title() for ax in axes] == ["expected", "yours", "yours − expected"]
