"""Our arithmetic with deltas against `add_weighted_adapter` of `peft`; where they differ, a test shows both."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from minipeft.arithmetic import add, add_factors, changes, compress, concatenate, dare, relative_error, ties
from minipeft.attach import trainable
from minipeft.deltas import delta_of
from minipeft.methods import LoRA

LAYERS = ("q", "token")
RANKS = {"one": (3, 7), "two": (3, 2)}  # (r, α)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.token = nn.Linear(7, 10), nn.Embedding(11, 6)

    def forward(self, x):
        return self.q(x)


def factors(theirs, adapter):
    """peft's A and B under our names."""
    found = {}
    for path in LAYERS:
        layer = theirs.get_base_model().get_submodule(path)
        for letter in "AB":
            bare = getattr(layer, f"lora_embedding_{letter}")
            found[f"{path}.{letter}"] = (
                bare[adapter] if adapter in bare else layer.__getattr__(f"lora_{letter}")[adapter].weight
            )
    return found


@pytest.fixture
def both():
    """A base, two LoRA deltas of ours, and a peft model with the same two adapters."""
    base, deltas, theirs = Net(), [], None
    for name, (rank, alpha) in RANKS.items():
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LAYERS))
        if theirs is None:
            theirs = get_peft_model(copy.deepcopy(base), config, adapter_name=name)
        else:
            theirs.add_adapter(name, config)
        view = LoRA(rank, alpha, LAYERS).attach(base)
        with torch.no_grad():
            for path, p in factors(theirs, name).items():
                p.normal_()
                trainable(view)[path].copy_(p)
        deltas.append(delta_of(view))
    return base, deltas, theirs


def weighted(theirs, weights, how, **settings):
    """ΔW of what peft makes of the two: {name of the weight: ΔW}."""
    name = f"{how}{len(theirs.peft_config)}"
    # with full matrices, its default, the library fails where the rank is larger than a side of the matrix
    theirs.add_weighted_adapter(list(RANKS), weights, name, how, svd_full_matrices=False, **settings)
    return {
        f"{path}.weight": theirs.get_base_model().get_submodule(path).get_delta_weight(name).detach() for path in LAYERS
    }


def same(got, wanted, close, tol=2e-6):
    assert got.keys() == wanted.keys()
    for name in got:
        close(got[name], wanted[name], tol)


WEIGHTS = [[0.7, 0.3], [1.5, -1.0]]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_concatenation_and_the_exact_sum_are_cat_and_svd_of_full_rank(both, weights, close):
    base, deltas, theirs = both
    cat = weighted(theirs, weights, "cat")
    same(changes(base, concatenate(deltas, weights)), cat, close)
    same(changes(base, add(base, deltas, weights)), cat, close)
    same(changes(base, add(base, deltas, weights)), weighted(theirs, weights, "svd", svd_rank=6), close, 5e-6)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_compressing_the_sum_is_svd(both, rank, close):
    base, deltas, theirs = both
    got = changes(base, compress(base, add(base, deltas, [0.7, 0.3]), rank))
    same(got, weighted(theirs, [0.7, 0.3], "svd", svd_rank=rank), close, 5e-6)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_factors_added_one_by_one_are_linear_and_far_from_the_sum(both, weights, close):
    base, deltas, theirs = both
    rough = add_factors(deltas, weights)
    same(changes(base, rough), weighted(theirs, weights, "linear"), close)
    error = relative_error(base, rough, add(base, deltas, weights))
    assert 0.4 < min(error.values()) < max(error.values()) < 1.5


@pytest.mark.parametrize("kept", [13, 40])
@pytest.mark.parametrize("layer", LAYERS)
def test_ties_on_one_matrix_is_ties_svd_of_full_rank(both, layer, kept, close):
    base, deltas, theirs = both
    for delta in deltas:
        delta.tensors = {name: t for name, t in delta.tensors.items() if name.startswith(layer)}
        delta.method = LoRA(delta.method.rank, delta.method.alpha, (layer,))
    density = (kept + 0.3) / base.get_submodule(layer).weight.numel()  # the library rounds down, here to the nearest
    got = changes(base, ties(base, deltas, [0.7, 0.7], density))
    wanted = weighted(theirs, [0.7, 0.7], "ties_svd", svd_rank=10, density=density)[f"{layer}.weight"]
    same(got, {f"{layer}.weight": wanted}, close, 5e-6)


def test_ties_on_two_matrices_is_trimmed_over_both_as_in_the_paper_and_over_each_in_peft(both):
    base, deltas, theirs = both
    for delta in deltas:
        delta.tensors["q.B"] *= 3  # the changes of q are the larger ones, so q keeps more of its numbers
    with torch.no_grad():
        for name in RANKS:
            factors(theirs, name)["q.B"].mul_(3)
    kept = [
        {name: (change.abs() > 1e-4).float().mean().item() for name, change in moved.items()}
        for moved in (
            changes(base, ties(base, deltas, density=0.3)),
            weighted(theirs, [1, 1], "ties_svd", svd_rank=10, density=0.3),
        )
    ]
    assert kept[0]["q.weight"] > kept[1]["q.weight"] + 0.1
    assert kept[0]["token.weight"] < kept[1]["token.weight"] - 0.1


def test_a_negative_weight_votes_against_in_ties_here_and_for_itself_in_peft(both):
    base, deltas, theirs = both
    plus, minus = deltas[0], copy.deepcopy(deltas[0])
    with torch.no_grad():
        for path, p in factors(theirs, "two").items():
            p.copy_(factors(theirs, "one")[path])
        for path in LAYERS:
            theirs.get_base_model().get_submodule(path).scaling["two"] = 7 / 3
    exact = changes(base, add(base, [plus, minus], [1, -0.5]))["q.weight"]
    ours = changes(base, ties(base, [plus, minus], [1, -0.5], 1.0))["q.weight"]
    peft = weighted(theirs, [1, -0.5], "ties_svd", svd_rank=10, density=0.9999)["q.weight"]
    task = changes(base, plus)["q.weight"]
    assert torch.allclose(exact, 0.5 * task, atol=1e-5)
    assert torch.allclose(ours, task, atol=1e-5)  # the heavier side has it, undiluted
    assert ((peft - 0.25 * task).abs() < 1e-5).float().mean() > 0.95  # the mean of both, though their signs differ


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_dare_is_dare_linear_svd_of_full_rank_with_the_same_lot(both, weights, close, monkeypatch):
    base, deltas, theirs = both
    got = changes(base, dare(base, deltas, weights, 0.6, seed=5))
    draw, lot = torch.bernoulli, torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch, "bernoulli", lambda p: draw(p, generator=lot))
    same(got, weighted(theirs, weights, "dare_linear_svd", svd_rank=10, density=0.6), close, 1e-5)


@pytest.mark.parametrize("how", ["ties", "dare_linear"])
def test_without_svd_peft_treats_factors_as_if_they_were_changes(both, how):
    base, deltas, theirs = both
    exact = changes(base, add(base, deltas))
    rough = weighted(theirs, [1.0, 1.0], how, density=0.999)  # nothing is trimmed or dropped to speak of
    for name, change in exact.items():
        assert (rough[name] - change).norm() / change.norm() > 0.4
