"""Figures of the ledger: what is in their artists is what was given."""

from collections import namedtuple

import pytest

from minipeft import plots
from tests.figures import labelled

pytestmark = pytest.mark.usefixtures("figures")
Effect = namedtuple("Effect", "size low high")


def test_effects_have_their_intervals_a_line_at_zero_and_a_panel_for_each_of_two_statements():
    told = {"half the steps": Effect(0.5, 0.25, 0.75), "warm-up .1": Effect(-0.25, -0.5, 0.125)}
    ax = plots.effects({"LoRA is faster": told, "and keeps more": told, "a third": told}, "doublings")
    axes = ax.figure.axes
    assert [panel.get_title(loc="left") for panel in axes] == ["LoRA is faster", "and keeps more"]
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(0.5, 0), (-0.25, 1)]
    assert [dot.get_markerfacecolor() for dot in dots] == [plots.INK, "white"]
    bars = [line.get_xdata() for line in ax.lines if line.get_marker() == "None" and len(line.get_xdata()) == 2]
    assert [list(bar) for bar in bars] == [[0.25, 0.75], [-0.5, 0.125], [0, 0]]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(told)
    assert ax.yaxis_inverted()
    assert "doublings" in axes[-1].get_xlabel()


def test_a_long_statement_is_broken_and_an_effect_may_have_no_unit():
    ax = plots.effects({"LoRA is faster than full fine-tuning " * 4: {"warm-up .1": Effect(0.1, 0.1, 0.1)}})
    assert "\n" in ax.get_title(loc="left")
    assert ax.get_xlabel().startswith("effect, 95 %")


def test_steps_stand_at_their_geometric_mean_and_what_did_not_arrive_is_an_arrow():
    found = {
        "batches of 8": {"LoRA": {"fixed": [100, 400], "tuned": [100]}, "DoRA": {"fixed": [501, 501], "tuned": [120]}},
        "batches of 32": {"LoRA": {"fixed": [80, 80], "tuned": [60]}, "DoRA": {"fixed": [90, 90], "tuned": [70]}},
    }
    first, second = plots.fixed_and_tuned(found, {"batches of 8": 501, "batches of 32": 501})
    dots = [line for line in first.lines if line.get_marker() in ("o", "D", ">")]
    places = [(dot.get_xdata()[0].round(3), dot.get_ydata()[0].round(), dot.get_marker()) for dot in dots]
    assert places == [(200, 0, "o"), (100, 0, "D"), (501, 1, ">"), (120, 1, "D")]
    assert list(next(line for line in first.lines if line.get_marker() == ".").get_xdata()) == [100, 400], "each seed"
    assert [panel.get_title() for panel in (first, second)] == list(found)
    assert [text.get_text() for text in first.get_yticklabels()] == ["LoRA", "DoRA"]
    labelled(first)
    assert second.get_xlabel()


def test_bits_stand_over_their_parameters_below_what_the_table_holds():
    ax = plots.bits_stored({768: {512: [600, 700], 2048: [768, 768]}, 3072: {512: [700, 900], 2048: [2000, 2100]}})
    lines = [line for line in ax.lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in lines] == [[650, 768], [800, 2050]]
    assert [list(line.get_xdata()) for line in lines] == [[512, 2048]] * 2
    assert [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"][:2] == [768, 3072]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["768 bits", "3,072 bits"]
    labelled(ax)
