"""The maps of how alike vectors are: what they show, how they are named, that they keep to one scale."""

import numpy as np
import pytest
import torch

from minipeft import plots


@pytest.fixture(autouse=True)
def close():
    yield
    plots.plt.close("all")


def numbers(ax):
    return [text.get_text() for text in ax.texts]


def test_each_map_shows_its_numbers_where_they_stand():
    (ax,) = plots.alike({"LSTM": torch.tensor([[1.0, -0.25], [0.5, 1.0]])})
    assert numbers(ax) == ["1.00", "-0.25", "0.50", "1.00"]
    assert [text.get_position() for text in ax.texts] == [(1, 1), (2, 1), (1, 2), (2, 2)]
    assert np.array_equal(ax.images[0].get_array(), [[1, -0.25], [0.5, 1]])


def test_all_maps_share_one_scale_and_are_named():
    axes = plots.alike({"one": torch.eye(3), "two": -torch.eye(3)}, name="vector", label="coupling")
    assert [ax.get_title() for ax in axes] == ["one", "two"]
    assert {ax.images[0].get_clim() for ax in axes} == {(-1, 1)}
    assert {ax.get_xlabel() for ax in axes} == {"vector"}
    assert "coupling" in {ax.get_ylabel() for ax in axes[0].figure.axes}


def test_large_maps_show_no_numbers():
    (ax,) = plots.alike({"many": torch.eye(12)})
    assert numbers(ax) == []


def test_a_parameter_can_be_given():
    plots.alike({"P": torch.nn.Parameter(torch.eye(2))})
