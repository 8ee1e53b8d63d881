"""AdaLoRA against its equations: non-square weights, P, λ and Q far from their start, biases, several widths."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from minipeft.attach import detach, trainable
from minipeft.bases import base as shipped
from minipeft.deltas import load, save
from minipeft.methods import AdaLoRA, LoRA
from minipeft.methods.adalora import allocate, layers, ranks
from minipeft.tasks import task
from minipeft.training import fit
from minipeft.views import merge
from tests.models import bits, close, make, moved, one, same_bits, stirred

SIX = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
SHORT = {"batch_size": 4, "device": "cpu", "progress": False}


def two(**settings):
    """Two matrices of different widths, with λ away from zero; and the method."""
    method = AdaLoRA(targets=("0", "1"), **settings)
    net = method.attach(nn.Sequential(nn.Linear(10, 7), nn.Linear(7, 5)))
    return moved(net, trainable(net).values(), 0.3), method


# ---- the layer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_merge_are_the_equation(bias):
    base, x = nn.Linear(10, 7, bias=bias), torch.randn(4, 6, 10)
    net = stirred(AdaLoRA(targets=("layer",), initial_rank=4, rank=3), one(base))
    P, lam, Q = net.layer.P, net.layer.lam, net.layer.Q
    assert (P.shape, lam.shape, Q.shape) == ((7, 4), (4,), (4, 10))
    W = base.weight + P @ torch.diag(lam) @ Q
    close(net(x), F.linear(x, W, base.bias))
    close(merge(net).layer.weight, W)
    close(merge(net)(x), F.linear(x, W, base.bias))


def test_the_scale_of_the_update_does_not_depend_on_the_rank():
    base, x = one(nn.Linear(10, 7)), torch.randn(3, 10)
    small, large = (stirred(AdaLoRA(targets=("layer",), initial_rank=r, rank=1), base) for r in (2, 9))
    with torch.no_grad():
        large.layer.lam.zero_()
        for name, part in {"P": large.layer.P[:, :2], "lam": large.layer.lam[:2], "Q": large.layer.Q[:2]}.items():
            part.copy_(getattr(small.layer, name))
    close(large(x), small(x))  # no α/r: seven empty triplets more change nothing


def test_the_directions_start_as_narrow_gaussians():
    layer = AdaLoRA(targets=("layer",), initial_rank=20).attach(one(nn.Linear(1000, 900))).layer
    for p in (layer.P, layer.Q):
        assert p.std().item() == pytest.approx(0.02, rel=0.03)
        assert p.abs().max() > 0.06  # a Gaussian has tails, a uniform of this width ends at 0.035
    assert not layer.lam.any()


# ---- the regularizer --------------------------------------------------------------------------------------------


def test_the_regularizer_is_the_sum_of_squared_distances_from_orthonormal():
    net, method = two(initial_rank=3, rank=2, gamma=0.7)
    sides = [rows for layer in net for rows in (layer.P.T, layer.Q)]  # the three directions
    pairs = [(i, j) for i in range(3) for j in range(3)]
    close(
        method.regularizer(net), 0.7 * sum((rows[i] @ rows[j] - int(i == j)) ** 2 for rows in sides for i, j in pairs)
    )


def test_the_regularizer_of_the_library_is_the_mean_of_the_distances():
    net, method = two(initial_rank=3, rank=2, gamma=0.7, mean_norm=True)
    gaps = [rows @ rows.T - torch.eye(3) for layer in net for rows in (layer.P.T, layer.Q)]
    close(method.regularizer(net), 0.7 * sum(torch.linalg.norm(gap) for gap in gaps) / 4)


@pytest.mark.parametrize("mean_norm", [False, True])
def test_the_regularizer_vanishes_where_directions_are_orthonormal_and_leaves_λ_alone(mean_norm):
    net, method = two(initial_rank=3, rank=2, mean_norm=mean_norm)
    method.regularizer(net).backward()
    assert all((p.grad is None) == name.endswith("lam") for name, p in trainable(net).items())
    with torch.no_grad():
        for layer in net:
            layer.P.copy_(torch.linalg.qr(torch.randn_like(layer.P))[0])
            layer.Q.copy_(torch.linalg.qr(torch.randn_like(layer.Q.T))[0].T)
    assert method.regularizer(net) < 1e-5
    assert method.regularizer(net.double()).dtype == torch.float64


def test_training_makes_the_directions_orthonormal_and_without_the_regularizer_does_not():
    apart, base = {}, shipped("letters-d32")
    for gamma in (0.0, 0.1):
        torch.manual_seed(0)
        view = AdaLoRA(rank=2, initial_rank=3, gamma=gamma, targets=("v",)).attach(base)
        fit(view, task("copy+next"), steps=30, lr=5e-2, warmup=0.1, **SHORT)
        apart[gamma] = AdaLoRA(gamma=1.0).regularizer(view).item() / 4
    assert apart[0.1] < 0.1 < 1 < apart[0.0]


# ---- importance -------------------------------------------------------------------------------------------------


def steps_of(net, number, seed=1):
    """Steps of no optimizer: fresh weights and gradients each time, for `after_step`. Yields t."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(number):
        for p in trainable(net).values():
            p.data = torch.randn(p.shape, generator=generator)
            p.grad = torch.randn(p.shape, generator=generator)
        yield step + 1


def test_importance_is_the_smoothed_sensitivity_times_its_uncertainty():
    net, method = two(initial_rank=3, rank=2, beta1=0.8, beta2=0.6, warmup=0.9, final=0)
    sensitivity, uncertainty = {}, {}
    for t in steps_of(net, 4):
        for name, p in trainable(net).items():
            now = (p.detach() * p.grad).abs()
            mine = sensitivity[name] = 0.8 * sensitivity.get(name, 0) + 0.2 * now
            uncertainty[name] = 0.6 * uncertainty.get(name, 0) + 0.4 * (now - mine).abs()
        method.after_step(net, t - 1, 100)
    s = {name: sensitivity[name] * uncertainty[name] for name in sensitivity}
    for i, layer in enumerate(net):
        P, lam, Q = (s[f"{i}.{name}"] for name in ("P", "lam", "Q"))
        expected = [lam[k] + sum(P[:, k]) / len(P) + sum(Q[k]) / Q.shape[1] for k in range(3)]
        close(layer.scores(), torch.stack(expected))


def test_more_uncertainty_and_more_sensitivity_both_raise_the_score():
    method = AdaLoRA(initial_rank=2, rank=1, targets=("layer",))
    net = method.attach(one(nn.Linear(6, 5)))
    for step in range(20):  # triplet 0 has a steady gradient, triplet 1 the same on average, in bursts
        for p in trainable(net).values():
            p.grad = torch.zeros_like(p)
        net.layer.lam.data = torch.ones(2)
        net.layer.lam.grad = torch.tensor([-1.0, 2.0 * (step % 2)])
        method.after_step(net, step, 1000)
    steady, bursts = net.layer.scores()
    assert bursts > 5 * steady > 0


def test_one_ranking_is_made_of_all_matrices():
    net, _ = two(initial_rank=3, rank=2)
    for layer, wanted in zip(net, ([0.1, 0.9, 0.8], [0.7, 0.2, 0.95]), strict=True):
        nothing = {"P": torch.zeros(1, 3), "Q": torch.zeros(3, 1)}
        layer.sensitivity = nothing | {"lam": torch.tensor(wanted)}
        layer.uncertainty = nothing | {"lam": torch.ones(3)}
    before = [layer.lam.detach().clone() for layer in net]
    with torch.no_grad():
        allocate(list(net), 7, 3)
    for layer, lam, kept in zip(net, before, ([0, 1, 1], [0, 0, 1]), strict=True):
        assert torch.equal(layer.lam, lam * torch.tensor(kept))
        assert layer.history == [(0, 3), (7, sum(kept))]
    assert ranks(net) == {"0": 2, "1": 1}


# ---- the budget -------------------------------------------------------------------------------------------------


def test_the_budget_stays_falls_like_a_cubic_and_stays():
    method = AdaLoRA(rank=10, initial_rank=90, warmup=0.1, final=0.3)
    curve = [method.budget(t, 100, 2) for t in range(1, 101)]
    assert set(curve[:10]) == {180}
    assert curve[10] == int(160 * (59 / 60) ** 3 + 20)
    assert curve[24] == int(160 * 0.75**3 + 20)  # t = 25, a quarter of the way from 10 to 70
    assert curve[39] == 40  # t = 40, half of the way: an eighth of the excess is left
    assert set(curve[69:]) == {20}
    assert curve == sorted(curve, reverse=True)


def test_the_budget_is_the_mean_rank_times_the_matrices_and_at_least_one():
    assert AdaLoRA(rank=16 / 12, initial_rank=8).budget(100, 100, 12) == 16
    assert AdaLoRA(rank=0.01).budget(100, 100, 12) == 1
    assert AdaLoRA(rank=6, initial_rank=6).budget(50, 100, 12) == 72


def test_ranks_follow_the_schedule_and_masked_triplets_come_back_between_allocations():
    net, method = two(initial_rank=6, rank=2, warmup=0.2, final=0.25, interval=5)
    for t in steps_of(net, 40):
        method.after_step(net, t - 1, 40)
        now = sum(ranks(net).values())
        if t in (10, 15, 20, 25) or t >= 30:
            assert now == method.budget(t, 40, 2), t
        else:
            assert now == 12, t  # warm-up ends with step 8; P and Q lived on, so that λ had something to come back to
    assert now == 4
    for layer in net:
        assert [t for t, _ in layer.history] == [0, 10, 15, 20, 25, 30]
        assert layer.P.detach().abs().min() > 0
        assert layer.Q.detach().abs().min() > 0
    totals = [sum(rank) for rank in zip(*[[rank for _, rank in layer.history] for layer in net], strict=True)]
    assert totals == [12, *(method.budget(t, 40, 2) for t in (10, 15, 20, 25, 30))]


def favour(net, index, layer):
    """Gradients that make triplet `index` of `layer` the most important one by far."""
    for p in trainable(net).values():
        p.data, p.grad = torch.ones_like(p), 0.01 * torch.rand_like(p)
    net[layer].lam.grad[index] = 1 + torch.rand(())


def test_a_masked_triplet_that_grows_important_is_kept_again_until_the_choice_is_final():
    net, method = two(initial_rank=2, rank=0.5, warmup=0, final=0.5, interval=1, beta1=0.1, beta2=0.1)
    seen = {}
    for t in range(1, 41):
        favour(net, *((0, 0) if t < 18 else (1, 1) if t < 25 else (0, 0)))
        method.after_step(net, t - 1, 40)
        seen[t] = [layer.lam.detach().bool().tolist() for layer in net]
    assert seen[17] == [[True, False], [False, False]]
    assert seen[19] == seen[20] == [[False, False], [False, True]]
    assert all(seen[t] == seen[20] for t in range(21, 41))


def test_importance_rests_from_the_final_choice_on():
    net, method = two(initial_rank=3, rank=1, warmup=0, final=0.5)
    scores = {}
    for t in steps_of(net, 20):
        method.after_step(net, t - 1, 20)
        scores[t] = torch.cat([layer.scores() for layer in net])
    assert not torch.equal(scores[9], scores[8])
    assert all(torch.equal(scores[t], scores[9]) for t in range(10, 21))


def test_a_budget_that_keeps_all_masks_nothing():
    net, method = two(initial_rank=3, rank=3)
    for t in steps_of(net, 20):
        method.after_step(net, t - 1, 20)
        assert ranks(net) == {"0": 3, "1": 3}


def test_training_for_one_step_ends_within_the_budget():
    net, method = two(initial_rank=3, rank=1)
    for t in steps_of(net, 1):
        method.after_step(net, t - 1, 1)
    assert sum(ranks(net).values()) == 2


def test_each_training_runs_its_own_schedule():
    view = AdaLoRA(rank=1, initial_rank=2, targets=("q", "v")).attach(shipped("letters-d32"))
    assert set(ranks(view).values()) == {0}
    for seed in (0, 1):
        fit(view, task("copy+next"), steps=20, lr=1e-2, seed=seed, **SHORT)
        assert sum(ranks(view).values()) == 4
        history = [layer.history for layer in layers(view).values()]
        assert {entry[0] for entry in history} == {(0, 2)}
        assert [t for t, _ in history[0]] == [0, 10, 14]
    assert all(torch.equal(layer.lam != 0, layer.kept) for layer in layers(view).values())


# ---- on a model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    view = AdaLoRA(rank=1, initial_rank=3).attach(shipped("letters-d32"))
    fit(view, task("copy+next"), steps=15, lr=5e-2, **SHORT)
    return view


def test_training_leaves_ranks_that_differ_within_the_budget_and_they_are_those_of_the_updates(trained):
    assert sum(ranks(trained).values()) == 12
    assert len(set(ranks(trained).values())) > 1
    for path, layer in layers(trained).items():
        assert torch.linalg.matrix_rank(layer.delta()) == ranks(trained)[path]


def test_a_delta_holds_the_factors_alone_and_gives_the_ranks_back(trained, tmp_path):
    save(trained, tmp_path / "delta.safetensors")
    stored = load_file(tmp_path / "delta.safetensors")
    assert set(stored) == {f"blocks.{i}.{path}.{name}" for i in range(2) for path in SIX for name in ("P", "lam", "Q")}
    assert ranks(load(tmp_path / "delta.safetensors", detach(trained))) == ranks(trained)


def test_stacked_on_other_methods_and_on_itself_only_the_upper_one_is_trained(trained):
    below = stirred(LoRA(targets=("q",)), detach(trained))
    lower = stirred(AdaLoRA(rank=1, initial_rank=2, targets=("q", "v")), below)
    before, upper = bits(lower), AdaLoRA(rank=1, initial_rank=3, targets=("q", "up")).attach(lower)
    assert set(ranks(upper)) == {f"blocks.{i}.{name}" for i in range(2) for name in ("attn.q", "mlp.up")}
    fit(upper, task("copy+next"), steps=10, lr=1e-2, **SHORT)
    assert sum(ranks(upper).values()) == 4
    assert same_bits(lower, before)
    assert set(ranks(lower)) == {f"blocks.{i}.attn.{name}" for i in range(2) for name in "qv"}
    assert set(ranks(LoRA().attach(copy.deepcopy(lower)))) == set(ranks(lower))
    assert not ranks(make())
