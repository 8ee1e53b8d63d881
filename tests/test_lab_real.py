"""What the lesson on a real model's claims reads from stored runs. The model itself is not needed."""

import numpy as np
import pytest

from minipeft.lab import real, stored
from minipeft.plots.pairs import text_by_text


def test_a_paired_comparison_is_the_mean_difference_in_standard_errors():
    assert real.paired([2.0, 3.0, 3.5, 4.5], [2.2, 3.1, 3.7, 4.6]) == pytest.approx(0.15 / (0.01 / 3 / 4) ** 0.5)
    assert real.paired([1.0, 2.0], [2.0, 1.0]) == 0


def test_a_valley_is_lowest_at_the_learning_rate_that_was_chosen_and_a_frontier_has_all_of_them():
    runs = stored()
    for name in ("Full", "LoRA, r 8"):
        valley = real.valley(runs, name)
        assert min(valley, key=valley.get) == real.tuned(runs, name).lr
        assert [lr for lr, _, _ in real.frontier(runs, name)] == list(valley)


def test_the_mean_over_windows_and_seeds_is_the_mean_loss():
    best = real.at_their_best(stored(), ["Full", "PromptTuning"])
    for runs in best.values():
        assert len(runs) == len(real.SEEDS)
        assert real.over_seeds(runs).mean() == pytest.approx(np.mean([run["loss"] for run in runs]), abs=1e-3)
    assert "top 8" in best["Full"][0]


def test_differences_are_a_row_of_dots_each_with_its_mean():
    ax = text_by_text({"a": [0.1, 0.3], "b": [-0.2, 0.0, 0.2]})
    dots, means = ax.lines[1::2], ax.lines[2::2]
    assert [len(line.get_xdata()) for line in dots] == [2, 3]
    assert [line.get_xdata()[0] for line in means] == pytest.approx([0.2, 0.0])
