"""What every test starts from: one thread, the same random numbers. And `--mine work`, a student's folder to check."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser):
    group = parser.getgroup("minipeft")
    group.addoption("--mine", type=Path, metavar="FOLDER", help="check the exercises in this folder, not the project's")
    group.addoption("--variant", metavar="SEED", help="with --mine: your teacher's rules")
    group.addoption("--hints", type=int, choices=range(1, 5), help="with --mine: how much to tell, 1 to 4")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def figures():
    """Figures need no screen; afterwards those that a test has drawn must be legible, and are closed."""
    import matplotlib.pyplot as plt

    from tests.figures import close

    plt.switch_backend("Agg")
    yield
    assert close() == []
