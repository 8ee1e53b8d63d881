"""Figures of an encoder-decoder: its beginnings, accuracy by place, where its answer reads, who reads a prefix."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from minipeft import plots
from minipeft.plots.encoder_decoder import PLACES
from tests.figures import labelled, overlapping

pytestmark = pytest.mark.usefixtures("figures")

SOURCE, ANSWER = [":", "c", "a"], ["a", "c", "."]


def map_of(keys, queries=3):
    return torch.rand(queries, keys, generator=torch.Generator().manual_seed(keys)).softmax(-1)


def test_the_map_of_the_model_shows_room_for_something_in_front_at_each_place():
    ax = plots.three_places()
    assert not overlapping([text for text in ax.texts if text.get_text()])
    drawn = [patch.get_facecolor() for patch in ax.patches]
    assert [drawn.count(to_rgba(colour)) for colour in PLACES.values()] == [2, 2, 2]
    assert {text.get_text() for text in ax.texts} >= {"1", "2", "3", "cross-attention"}


def test_each_task_has_an_axes_with_a_dot_for_each_run_and_the_mean_written_beside_it():
    order, letters = plots.accuracy_by_place(
        {"order": {"encoder": [1.0, 0.9], "memory": [0.0, 0.1]}, "letters": {"encoder": [1.0], "memory": [0.96]}}
    )
    assert [ax.get_title() for ax in (order, letters)] == ["order", "letters"]
    assert [list(line.get_xdata()) for line in order.lines] == [[1.0, 0.9], [0.0, 0.1]]
    assert [text.get_text() for text in order.texts] == ["0.95", "0.05"]
    assert [label.get_text() for label in order.get_yticklabels()] == ["encoder", "memory"]
    assert [bar.get_width() for bar in letters.patches] == [1.0, 0.96]


def test_what_stands_in_front_of_the_memory_has_columns_of_its_own():
    plain, fronted = plots.where_answers_read(
        {"plain": (map_of(3), SOURCE, ANSWER), "prefix": (map_of(5), SOURCE, ANSWER)}
    )
    assert [label.get_text() for label in plain.get_xticklabels()] == SOURCE
    assert [label.get_text() for label in fronted.get_xticklabels()] == ["P1", "P2", *SOURCE]
    assert [label.get_text() for label in fronted.get_yticklabels()] == ANSWER
    assert (len(plain.lines), [list(line.get_xdata()) for line in fronted.lines]) == (0, [[1.5, 1.5]])
    np.testing.assert_allclose(fronted.images[0].get_array(), map_of(5))


def test_long_words_of_a_source_stand_upright_so_that_none_covers_another():
    words = ["reverse", "plain", "crimson", ":"]
    (ax,) = plots.where_answers_read({"told": (map_of(4), words, ANSWER)})
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {90}


def test_how_much_each_token_reads_of_a_prefix_is_summed_over_its_vectors():
    maps = [torch.rand(2, 3, 5).softmax(-1) for _ in range(2)]
    ax = labelled(plots.prefix_by_token(maps, SOURCE, virtual=2))
    shown = torch.as_tensor(np.asarray(ax.images[0].get_array()))
    torch.testing.assert_close(shown, torch.cat(maps)[..., :2].sum(-1))
    assert [label.get_text() for label in ax.get_yticklabels()][2] == "layer 2, head 0"
