"""Drawings of methods: every method has one, and it can be read."""

import pytest
from matplotlib.colors import to_rgba

from minipeft import plots
from minipeft.methods import METHODS
from minipeft.plots.style import HUES

pytestmark = pytest.mark.usefixtures("figures")


def test_every_method_has_a_drawing_of_its_structure():
    drawn = set(plots.STRUCTURES) - {"Adapter"} | {"Houlsby", "Pfeiffer", "ParallelAdapter"}
    assert drawn == set(METHODS)
    with pytest.raises(ValueError, match="no drawing of 'Magic'; there are: Full"):
        plots.structure("Magic")


@pytest.mark.parametrize("method", plots.STRUCTURES)
def test_a_structure_is_readable_and_shows_what_is_trained_and_what_is_frozen(method):
    ax = plots.structure(method)
    figure = ax.figure
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in ax.texts if t.get_text()]
    inside = figure.bbox
    for i, a in enumerate(boxes):
        assert inside.union([inside, a]).bounds == inside.bounds, "it leaves the figure"
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
    hue = to_rgba("#009e73" if method == "Adapter" else HUES[method])
    colours = {p.get_facecolor() for p in ax.patches if p.get_facecolor()[3] == 1}
    assert hue in colours
    assert len(colours) > 1 or method == "Full"
