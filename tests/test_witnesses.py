"""Without the other libraries, what needs them says how to get them."""

import pytest
import torch

from minipeft.exchange import witnesses


def test_without_the_libraries_the_command_that_installs_them_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(witnesses, "find_spec", lambda name: None)
    assert not witnesses.there()
    with pytest.raises(ModuleNotFoundError, match=r"python run\.py parity"):
        witnesses.in_transformers(tmp_path, torch.zeros(1, 2, dtype=torch.long))
