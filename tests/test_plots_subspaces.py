"""Maps of subspace similarity can be read: named rows and columns, one scale from 0 to 1."""

import pytest
import torch

from minipeft import plots

pytestmark = pytest.mark.usefixtures("figures")


def test_every_map_has_its_title_and_the_scale_is_that_of_a_share():
    maps = {"q in layer 0": torch.rand(4, 4), "random": torch.zeros(4, 4)}
    axes = plots.subspace_similarity(maps)
    assert [ax.get_title() for ax in axes] == list(maps)
    for ax in axes:
        assert ax.images[0].get_clim() == (0, 1)
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "3", "4"]
        assert ax.get_xlabel()
    assert axes[0].get_ylabel()
