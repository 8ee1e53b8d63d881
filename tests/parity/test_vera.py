"""Our VeRA draws, computes, trains and merges like `peft`; where the two part company, a test shows it.

Everywhere b is not zero, d not constant, the rank divides no width, biases are not zero, and layers differ in width.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import VeraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from minipeft.attach import attachments, merge, trainable, unmerge
from minipeft.deltas import save
from minipeft.methods import VeRA
from minipeft.models.transformer import Config, Transformer

ALL = ("q", "k", "v", "o", "up", "down")


class One(nn.Module):
    """A model of a single layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def vectors(theirs):
    """peft's vectors under our names: `base_model.model.blocks.0.attn.q.vera_lambda_b.default`."""
    short = {}
    for name, p in trainable(theirs).items():
        path, letter = name.removeprefix("base_model.model.").split(".vera_lambda_")
        short[f"{path}.{letter[0]}"] = p
    return short


def attach_both(base, rank, targets, seed=0):
    """Our VeRA and peft's on copies of one model, with the same seed and the same random vectors."""
    ours = VeRA(rank, targets, seed=seed).attach(copy.deepcopy(base))
    config = VeraConfig(r=rank, target_modules=list(targets), projection_prng_key=seed)
    theirs = get_peft_model(copy.deepcopy(base), config).to(next(base.parameters()).dtype).eval()
    mine, other = trainable(ours), vectors(theirs)
    assert set(mine) == set(other)
    with torch.no_grad():
        for name, p in other.items():
            mine[name].copy_(p.normal_(std=0.5))
    return ours, theirs


@pytest.fixture
def base(randomised):
    """In double precision: through a whole model rounding adds up, and here a difference is to be a mistake."""
    return randomised(Transformer(Config(vocab=20, dim=12, layers=2, heads=3, ff=21, context=16))).double()


@pytest.fixture
def tokens():
    return torch.randint(20, (3, 9))


@pytest.fixture
def mask():
    """The second row is padded on the right, the third on the left."""
    return torch.stack([torch.ones(9), torch.arange(9) < 6, torch.arange(9) > 2]).bool()


def loss_of(logits, tokens, mask):
    real = mask[:, 1:] & mask[:, :-1]
    return F.cross_entropy(logits[:, :-1][real], tokens[:, 1:][real])


@pytest.mark.parametrize("targets", [("q", "v"), ALL], ids=["one width", "several"])
@pytest.mark.parametrize("seed", [0, 17])
def test_one_seed_draws_the_same_matrices(base, targets, seed):
    ours, theirs = attach_both(base.float(), 5, targets, seed)
    shared = attachments(ours)[0].swaps[0].replacement.shared
    assert torch.equal(shared.A, theirs.base_model.vera_A["default"])
    assert torch.equal(shared.B, theirs.base_model.vera_B["default"])


def test_a_fresh_one_is_the_base_in_both_and_starts_with_the_same_vectors(base, tokens):
    theirs = get_peft_model(copy.deepcopy(base), VeraConfig(r=5, target_modules=["q", "down"])).double()
    ours = VeRA(rank=5, targets=("q", "down")).attach(copy.deepcopy(base))
    for model in (ours, theirs):
        assert torch.equal(model(tokens), base(tokens))
    for name, p in trainable(ours).items():
        assert torch.equal(p.float(), vectors(theirs)[name].float())
        assert p.unique().tolist() == pytest.approx([0.1 if name.endswith("d") else 0])
    assert sum(p.numel() for p in trainable(ours).values()) == theirs.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [3, 16])
def test_layer_forward_gradients_merge_and_unmerge(rank, bias, close):
    ours, theirs = attach_both(One(nn.Linear(7, 10, bias=bias)), rank, ("layer",))
    x, weight = torch.randn(2, 5, 7), torch.randn(2, 5, 10) / 10
    before = ours(x)
    assert not torch.allclose(before, theirs.get_base_model().layer.base_layer(x), atol=0.1)
    close(before, theirs(x))
    for model in (ours, theirs):
        (model(x) * weight).sum().backward()
    for name, p in trainable(ours).items():
        close(p.grad, vectors(theirs)[name].grad)
    fresh = ours.layer.weight.clone()
    merge(ours)
    theirs.merge_adapter()
    close(ours.layer.weight, theirs.get_base_model().layer.base_layer.weight)
    close(ours(x), before, 2e-6)
    unmerge(ours)
    assert torch.equal(ours.layer.weight, fresh)
    assert torch.equal(ours(x), before)


@pytest.mark.parametrize("targets", [("q", "v"), ALL], ids=["one width", "several"])
def test_transformer_logits_gradients_merge(base, tokens, mask, targets, close):
    ours, theirs = attach_both(base, 5, targets)
    got, expected = ours(tokens, mask), theirs(tokens, mask)
    assert not torch.allclose(expected[mask], base(tokens, mask)[mask], atol=0.1)
    close(got[mask], expected[mask])
    for logits in (got, expected):
        loss_of(logits, tokens, mask).backward()
    for name, p in trainable(ours).items():
        close(p.grad, vectors(theirs)[name].grad)
    with torch.no_grad():
        close(merge(ours)(tokens, mask)[mask], theirs.merge_and_unload()(tokens, mask)[mask])


def test_five_steps_of_training_are_the_same(base, tokens, mask, close):
    ours, theirs = attach_both(base, 5, ALL)
    curves = [], []
    for model, curve in zip((ours, theirs), curves, strict=True):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
        for _ in range(5):
            loss = loss_of(model(tokens, mask), tokens, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)
    assert curves[0][-1] < curves[0][0] - 0.01
    for name, p in trainable(ours).items():
        close(p, vectors(theirs)[name])


def test_peft_stores_the_matrices_and_we_do_not(base, tmp_path):
    ours, theirs = attach_both(base.float(), 300, ("q", "v"))
    tensors = get_peft_model_state_dict(theirs)
    assert {"base_model.vera_A", "base_model.vera_B"} < set(tensors)
    alone = sum(t.numel() for t in tensors.values() if t.ndim == 1)
    assert alone == 4 * (300 + 12)
    assert sum(t.numel() for t in tensors.values()) == alone + 2 * 300 * 12
    assert save(ours, tmp_path / "d") < 4 * alone + 1500
