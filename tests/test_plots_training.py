"""Figures of training and of its results: what is in their artists is what was given."""

import numpy as np
import pytest

from minipeft import plots
from minipeft.costs import Memory
from minipeft.plots.style import HUES, mark
from minipeft.plots.training import MEMORY, spread
from minipeft.training import History
from tests.figures import extent, labelled, overlapping

pytestmark = pytest.mark.usefixtures("figures")


def test_curves_smooth_and_bear_short_runs():
    ax = labelled(plots.curves({"LoRA(rank=1)": History(loss=[2.0] * 30), "Full": History(loss=[2.0] * 3)}))
    assert [len(line.get_xdata()) for line in ax.lines] == [21, 1]
    assert all(np.allclose(line.get_ydata(), 2) for line in ax.lines)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["LoRA(rank=1)", "Full"]


@pytest.mark.parametrize(
    ("losses", "marks"),
    [([2.0, 5.0], ["2", "3", "4", "6"]), ([0.05, 2.0], ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
     ([1e-4, 5.0], ["0.0001", "0.001", "0.01", "0.1", "1", "10"])],
)  # fmt: skip
def test_losses_have_plain_numbers_at_a_logarithmic_axis(losses, marks):
    ax = plots.curves({"LoRA": History(loss=losses * 5)}, window=1)
    assert ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_yticklabels()] == marks


def test_bars_of_accuracy_reach_to_one_and_seeds_are_dots():
    ax = plots.bars({"a": 0.0, "b": [0.2, 0.4]})
    assert ax.get_xlabel() == "exact-match accuracy"
    assert ax.get_xlim()[1] > 1
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0, 0.3])
    assert [t.get_text() for t in ax.texts] == ["0.00", "0.30"]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[0.2, 0.4]]
    assert [t.xy for t in ax.texts] == [(0.4, 0), (0.4, 1)], "means in a column, beside no dot"
    assert [t.xy for t in plots.bars({"a": 0.1, "b": 0.3}).texts] == [(0.1, 0), (0.3, 1)], "or at the ends"
    assert [t.get_text() for t in plots.bars({"weights": 1234.0}, label="count").texts] == ["1,234"]
    steps = plots.bars({"a": [37.0, 37.4], "b": [186.0, 186.5], "c": [0.5, 2.0]}, label="steps")
    assert [t.get_text() for t in steps.texts] == ["37.2", "186", "1.25"]


def test_learned_and_kept_are_drawn_for_every_seed():
    traces = {"hot": [[(0, 0.0, 1.0), (5, 0.9, 0.1)], [(0, 0.0, 1.0), (5, 0.7, 0.2)]], "mild": [[(0, 0.0, 1.0)]]}
    axes = plots.forgetting(traces)
    assert [ax.get_title() for ax in axes] == ["hot", "mild"]
    drawn = [(line.get_linestyle(), list(line.get_ydata())) for line in axes[0].lines]
    assert drawn == [("-", [0.0, 0.9]), ("--", [1.0, 0.1]), ("-", [0.0, 0.7]), ("--", [1.0, 0.2])]
    assert list(axes[0].lines[0].get_xdata()) == [0, 5]
    assert [text.get_text() for text in axes[-1].get_legend().get_texts()] == ["new task", "retention"]
    assert "step" in axes[0].get_xlabel()
    assert "accuracy" in axes[0].get_ylabel()


def test_rates_are_drawn_in_order_and_the_best_is_ringed():
    losses = {"LoRA(rank=4)": {0.1: 2.0, 0.01: 0.5, 0.001: 3.0}, "IA3": {0.1: 0.2, 0.01: 4.0}}
    ax = plots.learning_rates(losses)
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert [line.get_label() for line in lines] == list(losses)
    assert list(lines[0].get_xdata()) == [0.001, 0.01, 0.1]
    assert list(lines[0].get_ydata()) == [3.0, 0.5, 2.0]
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert rings == [(0.01, 0.5), (0.1, 0.2)]
    chosen = plots.learning_rates(losses, chosen={"LoRA(rank=4)": 0.1, "IA3": 0.1})
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in chosen.lines if len(line.get_xdata()) == 1]
    assert rings == [(0.1, 2.0), (0.1, 0.2)]
    assert "chosen" in chosen.get_xlabel()
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "rate" in ax.get_xlabel()
    assert "nats" in ax.get_ylabel()


def test_each_method_has_a_line_with_its_range_and_each_number_a_tick():
    found = {"Full": {8: [0.0, 0.2], 64: [1.0, 1.0]}, "LoRA(rank=4)": {8: [0.1, 0.1], 64: [0.4, 0.8]}}
    ax = plots.accuracy_by_size(found, xlabel="lines to learn from")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "64"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["Full", "LoRA(rank=4)"]
    full, lora = (container.lines[0] for container in ax.containers)
    assert list(full.get_ydata()) == [0.1, 1.0]
    bars = ax.containers[1].lines[2][0].get_segments()
    assert [round(float(v), 6) for v in bars[1][:, 1]] == [0.4, 0.8]
    assert lora.get_color() != full.get_color()
    assert ax.get_xlabel() == "lines to learn from"


def test_along_a_line_the_means_are_joined_and_every_seed_has_a_dot():
    found = {"between": {"reverse": {0: [1.0, 0.8], 1: [0.0, 0.0]}}, "beyond": {"both": {0.5: [0.2]}}}
    axes = plots.interpolation(found, ["share", "λ"])
    assert [ax.get_xlabel() for ax in axes] == ["share", "λ"]
    mean, *dots = axes[0].lines
    assert list(mean.get_xdata()) == [0, 1]
    assert list(mean.get_ydata()) == pytest.approx([0.9, 0])
    assert [(list(dot.get_xdata()), list(dot.get_ydata())) for dot in dots] == [([0, 0], [1.0, 0.8]), ([1, 1], [0, 0])]
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["both"]
    assert "accuracy" in axes[0].get_ylabel()


def many(accuracy):
    """As many tuned_methods as the course has, most of them with the same few numbers of parameters."""
    labels = [f"LoRA(rank={r})" for r in (1, 2, 4, 8)] + [
        f"{name}(length=4, start=1)" for name in HUES if name not in ("LoRA", "LinearProbe")
    ]
    sizes = [512, 512, 2048, 4096, 4100, 109372]
    return [
        {"method": label, "parameters": sizes[i % 6], "accuracy": accuracy(i)}
        for i, label in enumerate(reversed(labels))
    ]


def test_pareto_has_a_point_with_its_range_for_each_method():
    table = [
        {"method": "LoRA(rank=1)", "parameters": 512, "accuracy": [0.2, 0.4]},
        {"method": "Full", "parameters": 99999, "accuracy": [1.0]},
    ]
    ax = labelled(plots.pareto(table[::-1]))
    points = [(c.lines[0].get_xydata().tolist(), c.lines[2][0].get_segments()[0].tolist()) for c in ax.containers]
    assert points[0] == ([[pytest.approx(0.3), 512]], [[pytest.approx(0.2), 512], [pytest.approx(0.4), 512]])
    assert points[1] == ([[1, 99999]], [[1, 99999], [1, 99999]])
    assert [(t.get_text(), t.xy[0] < 0, t.xy[0] > 1) for t in ax.texts] == [
        ("LoRA(rank=1)", True, False),  # half or less: its name stands on the left
        ("Full", False, True),
    ]


@pytest.mark.parametrize("share", [0.1, 0.7, 0.998])
def test_pareto_takes_seeds_that_agree(share):
    table = [{"method": "Full", "parameters": 9, "accuracy": [share] * 3}]  # their mean is not quite the same
    ax = plots.pareto(table)
    (segment,) = ax.containers[0].lines[2][0].get_segments()
    assert segment.tolist() == [[pytest.approx(share), 9]] * 2


def test_pareto_ties_every_name_to_its_point():
    table = many(lambda i: [1.0] if i % 3 else [0.1 * (i % 5), 0.1])
    ax = plots.pareto(table)
    ax.figure.canvas.draw()
    to_data = ax.get_xaxis_transform() + ax.transData.inverted()
    names = {t.xy: t.get_text() for t in ax.texts}
    found = {}
    for line in ax.lines:
        if len(line.get_xdata()) == 2 and line.get_transform() == ax.get_xaxis_transform():
            (start, end), colour = line.get_xydata(), line.get_color()
            key = next(k for k in ax.lines if k is not line and k.get_xydata().tolist() == [end.tolist()])
            assert key.get_color() == colour
            assert key.get_marker() == mark(names[tuple(end)])["marker"]
            found[names[tuple(end)]] = to_data.transform(start).tolist()
    assert found == {
        row["method"]: pytest.approx([np.mean(row["accuracy"]), row["parameters"]], abs=1e-9) for row in table
    }


@pytest.mark.parametrize(
    ("accuracy", "panels"),
    [(lambda i: [1.0], 1), (lambda i: [0.0], 1), (lambda i: [i / 19, 0.5], 1), (lambda i: [float(i % 2)], 2)],
    ids=["all right", "all wrong", "from 0 to 1", "half of each, in two panels"],
)
def test_pareto_stays_readable_with_all_methods(accuracy, panels):
    table = many(accuracy)
    assert len(table) == 20
    axes = [plots.pareto(table)] if panels == 1 else plots.new(7.5, 9, rows=2)
    for ax in axes if panels == 2 else []:
        plots.pareto(table, ax).set_title("reverse+blue")
    ax = axes[-1]
    assert sorted(t.get_text() for t in ax.texts) == sorted(row["method"] for row in table)
    ax.figure.draw_without_rendering()
    assert overlapping(ax.texts) == []
    low, high = ax.transData.transform([(0, 1e3), (1, 1e3)])[:, 0]
    for text in ax.texts:
        box = extent(text)
        assert 0 <= box.x0 < box.x1 <= ax.figure.bbox.x1
        assert ax.bbox.y0 - 5 < box.y0 < box.y1 < ax.bbox.y1 + 5
        assert box.x1 < low or box.x0 > high, "names stand outside, points inside"


def test_what_is_spread_keeps_its_order_and_stays_near():
    assert spread([3.0, 3.0, 3.0], 1, 0, 9).tolist() == [2, 3, 4]
    assert spread([1.0, 5.0], 1, 0, 9).tolist() == [1, 5], "what is apart stays"
    assert spread([0.0, 0.1, 5.0, 5.2, 9.0], 2, 0, 9) == pytest.approx([0, 2, 4.1, 6.1, 9])
    assert spread([9.0, 9.0], 2, 0, 9).tolist() == [7, 9]
    assert spread([1.0, 1.0, 1.0], 5, 0, 9).tolist() == [0, 5, 10], "without room it runs over, but does not overlap"
    assert spread([], 1, 0, 9).tolist() == []


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
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(MEMORY)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["small", "large"]
    assert "memory" in ax.get_xlabel()


def test_the_bill_is_drawn_in_bytes_on_one_scale():
    ax = plots.memory({"a": Memory(400, 100, 200, 300), "b": Memory(300, 0, 0, 200)}, shares=False)
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(2, 4)
    assert widths[0] == pytest.approx([0.4, 0.1, 0.2, 0.3])  # in KB, as the largest total is told
    assert widths[1] == pytest.approx([0.3, 0, 0, 0.2])
    assert {"0.4", "1 KB", "500 bytes"} <= {text.get_text() for text in ax.texts}
    assert "KB" in ax.get_xlabel()


def test_what_is_learned_and_forgotten_is_a_line_over_learning_rates():
    curves = {"Full": [(1e-4, 2.9, 3.0), (3e-4, 2.7, 3.4)], "LoRA": [(1e-3, 3.0, 3.2), (3e-3, 3.2, 3.5)]}
    ax = plots.learned_and_forgotten(curves, base=(3.5, 2.9))
    assert [line.get_label() for line in ax.lines] == ["Full", "LoRA", "base"]
    assert ax.lines[0].get_xydata().tolist() == [[2.9, 3.0], [2.7, 3.4]]
    assert {text.get_text() for text in ax.texts} == {"0.0001", "0.0003", "0.001", "0.003"}
    assert "new text" in ax.get_xlabel()
    assert "old text" in ax.get_ylabel()
