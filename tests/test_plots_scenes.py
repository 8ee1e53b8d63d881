"""Figures of the world of pictures and captions."""

import numpy as np
import pytest

from minipeft import plots
from tests.figures import labelled

pytestmark = pytest.mark.usefixtures("figures")


def test_pictures_stand_in_named_rows_with_captions_below_the_last():
    rows = {name: np.full((5, 3, 24, 24), shade) for name, shade in (("plain", 0.9), ("dusk", 0.2))}
    captions = [f"a picture : large red square number {i}" for i in range(5)]
    axes = plots.captioned(rows, captions)
    assert axes.shape == (2, 5)
    assert [ax.get_xlabel().replace("\n", " ") for ax in axes[-1]] == captions
    assert [line[0].get_ylabel() for line in axes] == ["plain", "dusk"]
    assert axes[1, 0].images[0].get_array().max() == pytest.approx(0.2)


def test_the_dual_encoder_is_drawn_with_both_towers():
    words = " ".join(text.get_text() for text in plots.two_towers().texts)
    assert all(part in words for part in ("ViT", "Transformer", "W image", "W text", "u (B, w)", "v (C, w)", "(B, C)"))


def test_every_cosine_stands_in_its_cell():
    cosines = np.linspace(-0.9, 0.9, 6).reshape(2, 3)
    ax = labelled(plots.similarities(cosines, ["red square", "blue ring"], ["red square", "blue ring", "gold box"]))
    assert [t.get_text() for t in ax.texts] == [f"{value:.2f}" for value in cosines.flatten()]


def test_the_frontier_joins_the_means_in_the_order_of_the_shares():
    found = {0: ([0.2], [0.98]), 0.5: ([0.6, 0.7], [0.96, 0.94]), 1: ([0.96], [0.78])}
    ax = labelled(plots.frontier(found))
    assert ax.lines[0].get_xydata() == pytest.approx(np.array([(0.98, 0.2), (0.95, 0.65), (0.78, 0.96)]))
    assert [t.get_text() for t in ax.texts] == ["×0", "×0.5", "×1"]
