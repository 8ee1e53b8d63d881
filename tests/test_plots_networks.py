"""Drawings of the networks that are no Transformers: they can be read, and show what is trained."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from minipeft import plots

pytestmark = pytest.mark.usefixtures("figures")


@pytest.mark.parametrize("draw", [plots.one_door, plots.lora_convolution])
def test_no_text_of_a_drawing_lies_on_another_or_leaves_the_figure(draw):
    axes = np.atleast_1d(draw())
    figure = axes[0].figure
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for ax in axes for t in ax.texts if t.get_text()]
    for i, a in enumerate(boxes):
        assert figure.bbox.union([figure.bbox, a]).bounds == figure.bbox.bounds, "it leaves the figure"
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])


def test_lora_beside_a_convolution_shows_two_trained_factors_and_one_frozen_kernel():
    faces = [p.get_facecolor() for p in plots.lora_convolution().patches]
    assert faces.count(to_rgba(plots.HUES["LoRA"])) == 2
    assert len(faces) == 3


def test_a_door_stands_at_every_weight_of_both_networks():
    doors = [sum(t.get_text() == "1" for t in ax.texts) for ax in plots.one_door()]
    assert doors == [4, 4]  # three convolutions and a head; embedding, two matrices and a head
