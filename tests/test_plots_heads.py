"""Figures of heads: a number for each, in maps with named rows and columns."""

import numpy as np
import pytest
import torch

from minipeft import plots

pytestmark = pytest.mark.usefixtures("figures")


def test_each_map_names_its_heads_and_writes_their_numbers():
    found = {"letter": torch.tensor([[0.0, 0.5, 1.0], [0.25, 0.75, 0.1]]), "table": [[1, 0, 0], [0, 0, 0]]}
    axes = plots.heads(found, "attention weight")
    assert [ax.get_title() for ax in axes] == ["letter", "table"]
    assert [t.get_text() for t in axes[0].texts] == ["0.00", "0.50", "1.00", "0.25", "0.75", "0.10"]
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["head 0", "head 1", "head 2"]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["layer 0", "layer 1"]


def test_all_maps_have_one_scale_with_a_named_bar():
    axes = plots.heads({"one": np.eye(2), "other": np.eye(2) / 2}, "accuracy")
    assert {ax.images[0].get_clim() for ax in axes} == {(0, 1)}
    assert axes[0].figure.axes[-1].get_ylabel() == "accuracy"


def test_it_draws_on_given_axes():
    given = plots.new(4, 2)
    (ax,) = plots.heads({"alone": np.eye(2)}, "accuracy", given)
    assert ax is given
