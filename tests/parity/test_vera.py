"""What is VeRA's own beside `peft`: one seed, the same matrices; the rest is in test_weight_methods.py."""

import pytest
import torch
from peft import get_peft_model_state_dict

from minipeft.attach import attachments, trainable
from minipeft.deltas import save
from minipeft.methods import VeRA
from tests.models import DIM, LAYERS


@pytest.mark.parametrize("targets", [("q", "v"), ("q", "k", "v", "o", "up", "down")], ids=["one width", "several"])
@pytest.mark.parametrize("seed", [0, 17])
def test_one_seed_draws_the_same_matrices_and_the_vectors_start_alike(base, targets, seed, both, close):
    two = both(base.float(), VeRA(5, targets, seed=seed), std=None)
    shared = next(iter(attachments(two.ours)[0].layers.values())).shared
    assert torch.equal(shared.A, two.theirs.base_model.vera_A["default"])
    assert torch.equal(shared.B, two.theirs.base_model.vera_B["default"])
    for name, p in trainable(two.ours).items():
        assert torch.equal(p, two.library()[name])
        assert p.unique().tolist() == pytest.approx([0.1 if name.endswith("d") else 0])


def test_peft_stores_the_matrices_and_we_do_not(base, tmp_path, both):
    two = both(base.float(), VeRA(300))
    tensors = get_peft_model_state_dict(two.theirs)
    assert {"base_model.vera_A", "base_model.vera_B"} < set(tensors)
    alone = sum(t.numel() for t in tensors.values() if t.ndim == 1)
    assert alone == LAYERS * 2 * (300 + DIM)
    assert sum(t.numel() for t in tensors.values()) == alone + 2 * 300 * DIM
    assert save(two.ours, tmp_path / "d") < 4 * alone + 2000
