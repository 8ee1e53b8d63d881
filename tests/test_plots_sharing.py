"""The drawing of a shared update and private parts can be read, and tells who is trained."""

import pytest
from matplotlib.colors import to_hex

from minipeft import plots

pytestmark = pytest.mark.usefixtures("figures")


@pytest.mark.parametrize("private", ["LoRA", "prompt"])
@pytest.mark.parametrize("names", [("blue",), ("blue", "red", "mirror"), ("blue", "red", "mirror", "next", "green")])
def test_it_is_readable_and_has_a_colour_for_each_private_part(names, private):
    ax = plots.shared_and_private(names, private)
    figure = ax.figure
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in ax.texts if t.get_text()]
    for i, a in enumerate(boxes):
        assert figure.bbox.union([figure.bbox, a]).bounds == figure.bbox.bounds, "it leaves the figure"
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
    assert min(text.get_fontsize() for text in ax.texts) >= 9
    colours = {to_hex(patch.get_facecolor()) for patch in ax.patches}
    assert {plots.HUES["LoRA"], *plots.SPARE[: len(names)]} <= colours
    assert len(colours) == len(names) + 2, "the frozen weight, the shared update, and a private part for each"


def test_what_cannot_be_drawn_is_told():
    with pytest.raises(ValueError, match="LoRA or prompt, got 'prefix'"):
        plots.shared_and_private(private="prefix")
    with pytest.raises(ValueError, match="from 1 to 6 tasks can be drawn, got 7"):
        plots.shared_and_private(tuple("abcdefg"))
