"""What the parity tests share: the reference libraries run offline, on one thread, from one seed, and two helpers.

They are the oracle: nothing else in the project imports them. Install requirements-parity.txt, then
`pytest tests/parity`.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries are imported: no test may load anything

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _same_start():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def close():
    """Equal up to `tol`, absolute and relative; the message says by how much it failed."""

    def check(ours, theirs, tol=1e-6):
        torch.testing.assert_close(ours, theirs, atol=tol, rtol=tol)

    return check


@pytest.fixture
def randomised():
    """A model whose every parameter is random, norms and biases too: a fresh zero or one hides whatever is wrong."""

    def fill(model, std=0.2):
        with torch.no_grad():
            for module in model.modules():
                for name, p in module.named_parameters(recurse=False):
                    p.normal_(std=std)
                    if isinstance(module, nn.LayerNorm) and name == "weight":
                        p += 1
        return model.eval()

    return fill
