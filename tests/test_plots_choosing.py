"""Figures for choosing a method: what is on the sheet and in the tree is what was given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from minipeft import plots
from minipeft.plots.choosing import goodness
from minipeft.plots.style import PALE


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


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
        "Full": {"lines\nright": 1.0, "trained": 109_372, "merges": True},
        "LoRA(rank=4)": {"lines\nright": None, "trained": 2_048, "merges": False},
    }
    ax = plots.scorecard(table, more=("lines\nright", "merges"))
    texts = [t.get_text() for t in ax.texts]
    assert [t for t in texts if t not in table["Full"]] == ["1.00", "–", "109,372", "2,048", "yes", "no"]
    assert set(table["Full"]) < set(texts)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(table)
    colours = [to_hex(patch.get_facecolor()) for patch in ax.patches]
    assert colours[1] == to_hex(PALE)  # not measured
    assert colours[2] == colours[5] == "#ffffff"  # the worst: most numbers, cannot be merged
    assert colours[0] == colours[3] == colours[4]


def test_every_answer_leads_to_a_box_and_methods_have_their_hue():
    tree = (
        "Does it know?",
        {
            "yes": ("PromptTuning", "1.00 from 8 lines"),
            "no": ("Scarce?", {"time": ("LoRA", "merged"), "not": ("Full", "all")}),
        },
    )
    ax = plots.decisions(tree)
    texts = [t.get_text() for t in ax.texts]
    for said in ("Does it know?", "Scarce?", "yes", "no", "time", "not", "PromptTuning", "merged", "LoRA", "Full"):
        assert said in texts
    colours = [to_hex(patch.get_facecolor()) for patch in ax.patches]
    assert len(colours) == 5
    assert {plots.HUES[name] for name in ("PromptTuning", "LoRA", "Full")} < set(colours)
    assert len(ax.lines) == 4
    top, bottom = ax.get_ylim()[1], ax.get_ylim()[0]
    assert all(top < t.get_position()[1] < bottom for t in ax.texts)
