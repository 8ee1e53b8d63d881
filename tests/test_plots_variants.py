"""Figures for the variants of LoRA: what is in their artists is what was given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from minipeft import plots
from minipeft.attach import attachments
from minipeft.methods import LoRA, VeRA
from minipeft.plots import style
from tests.models import make


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_rates_are_drawn_in_order_and_the_best_is_ringed():
    losses = {"LoRA(rank=4)": {0.1: 2.0, 0.01: 0.5, 0.001: 3.0}, "IA3": {0.1: 0.2, 0.01: 4.0}}
    ax = plots.rates(losses)
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert [line.get_label() for line in lines] == list(losses)
    assert list(lines[0].get_xdata()) == [0.001, 0.01, 0.1]
    assert list(lines[0].get_ydata()) == [3.0, 0.5, 2.0]
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert rings == [(0.01, 0.5), (0.1, 0.2)]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "rate" in ax.get_xlabel()
    assert "nats" in ax.get_ylabel()


def test_the_principal_part_is_coloured_and_its_share_told():
    W = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0]))
    (ax,) = plots.principal({"blocks.0.attn.q.weight": W}, rank=1)
    heights = {bar.get_x() + bar.get_width() / 2: (bar.get_height(), to_hex(bar.get_facecolor())) for bar in ax.patches}
    assert [heights[i][0] for i in (1, 2, 3, 4)] == pytest.approx([4, 2, 1, 0])
    assert heights[1][1] == plots.HUES["PiSSA"]
    assert {heights[i][1] for i in (2, 3, 4)} == {plots.FROZEN}
    assert ax.get_title() == f"0.attn.q: {16 / 21:.0%} of the energy in the first 1"
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_the_shared_pair_stands_once_above_the_vectors_of_every_layer():
    model = VeRA(rank=5).attach(make())
    layers = [s.replacement for s in attachments(model)[0].swaps]
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in layers:
            layer.d.normal_()
            layer.b.normal_()
    above, below = plots.shared_pair(model)
    for ax, matrix in zip(above, (layers[0].shared.A, layers[0].shared.B), strict=True):
        assert " × ".join(map(str, matrix.shape)) in ax.texts[0].get_text()
        assert to_hex(ax.patches[0].get_facecolor()) == style.PALE
    for ax, which in zip(below, "db", strict=True):
        shown = ax.images[0].get_array()
        assert np.allclose(shown, torch.stack([getattr(layer, which).detach() for layer in layers]))
        assert ax.get_yticklabels()[0].get_text() == "0.attn.q"
        assert ax.get_xlabel().startswith(which)


def test_without_vera_there_is_no_pair_to_show():
    with pytest.raises(ValueError, match="no VeRA"):
        plots.shared_pair(LoRA().attach(make()))
