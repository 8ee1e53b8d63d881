"""AdaLoRA against its equations: non-square weights, P, λ and Q far from their start, biases, several widths."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from minipeft.attach import detach, disabled, merge, trainable, unmerge
from minipeft.deltas import DeltaError, load, save
from minipeft.methods import AdaLoRA, LoRA
from minipeft.methods.adalora import allocate, layers, ranks
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import task
from minipeft.training import fit

SIX = [
    f"blocks.{i}.{name}" for i in range(2) for name in ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
]


def randomise(model):
    with torch.no_grad():
        for p in trainable(model).values():
            p.normal_(std=0.3)
    return model


def adapted(base, **settings):
    """The base inside a Sequential under the name "layer", with AdaLoRA on it and every factor away from its start."""
    net = nn.Sequential()
    net.add_module("layer", base)
    return randomise(AdaLoRA(targets=("layer",), **settings).attach(net))


def two(**settings):
    """Two matrices of different widths, with λ away from zero."""
    net = nn.Sequential(nn.Linear(10, 7), nn.Linear(7, 5))
    return randomise(AdaLoRA(targets=("0", "1"), **settings).attach(net)), AdaLoRA(targets=("0", "1"), **settings)


@pytest.fixture
def model():
    model = Transformer(Config(vocab=60, dim=12, layers=2, heads=3, ff=21, context=16))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@pytest.fixture
def tokens():
    return torch.randint(60, (3, 9))


# ---- the layer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_merge_are_the_equation(bias):
    base = nn.Linear(10, 7, bias=bias)
    net = adapted(base, start=4, rank=3)
    P, lam, Q = net.layer.P, net.layer.lam, net.layer.Q
    assert (P.shape, lam.shape, Q.shape) == ((7, 4), (4,), (4, 10))
    x = torch.randn(4, 6, 10)
    W = base.weight + P @ torch.diag(lam) @ Q
    torch.testing.assert_close(net(x), F.linear(x, W, base.bias))
    expected = net(x)
    torch.testing.assert_close(merge(net).layer.weight, W)
    torch.testing.assert_close(net(x), expected)
    assert type(net.layer) is nn.Linear
    assert torch.equal(unmerge(net)(x), expected)


def test_the_scale_of_the_update_does_not_depend_on_the_rank():
    base, x = nn.Linear(10, 7), torch.randn(3, 10)
    small, large = adapted(copy.deepcopy(base), start=2, rank=1), adapted(copy.deepcopy(base), start=9, rank=1)
    with torch.no_grad():
        large.layer.lam.zero_()
        for name, part in {"P": large.layer.P[:, :2], "lam": large.layer.lam[:2], "Q": large.layer.Q[:2]}.items():
            part.copy_(getattr(small.layer, name))
    torch.testing.assert_close(large(x), small(x))  # no α/r: seven empty triplets more change nothing


def test_the_start_is_the_base_exactly_and_only_λ_has_a_gradient_of_the_loss():
    base, x = nn.Linear(9, 5), torch.randn(3, 9)
    net = nn.Sequential(base)
    y = net(x)
    AdaLoRA(targets=("0",)).attach(net)
    assert torch.equal(net(x), y)
    (net(x) ** 2).sum().backward()
    assert net[0].lam.grad.abs().min() > 0
    assert not net[0].P.grad.any()
    assert not net[0].Q.grad.any()
    assert base.weight.grad is None
    assert base.bias.grad is None


def test_the_directions_start_as_narrow_gaussians():
    net = nn.Sequential(nn.Linear(1000, 900))
    AdaLoRA(targets=("0",), start=20).attach(net)
    for p in (net[0].P, net[0].Q):
        assert p.std().item() == pytest.approx(0.02, rel=0.03)
        assert p.abs().max() > 0.06  # a Gaussian has tails, a uniform of this width ends at 0.035
    assert not net[0].lam.any()


def test_exactly_the_three_factors_are_trained_and_counted_by_the_formula(model):
    AdaLoRA(initial_rank=5).attach(model)
    assert set(trainable(model)) == {f"{path}.{name}" for path in SIX for name in ("P", "lam", "Q")}
    widths = 4 * [(12, 12)] + [(12, 21), (21, 12)]
    assert sum(p.numel() for p in trainable(model).values()) == 2 * sum(5 * (i + o + 1) for i, o in widths)


def test_new_weights_follow_the_type_of_the_base():
    net = adapted(nn.Linear(4, 3).double())
    assert {p.dtype for p in trainable(net).values()} == {torch.float64}
    assert AdaLoRA().regularizer(net).dtype == torch.float64


# ---- the penalty ------------------------------------------------------------------------------------------------


def test_the_penalty_is_the_sum_of_squared_distances_from_orthonormal():
    net, method = two(start=3, rank=2, gamma=0.7)
    expected = 0.0
    for layer in (net[0], net[1]):
        for rows in (layer.P.T, layer.Q):  # the three directions
            for i in range(3):
                for j in range(3):
                    expected += (rows[i] @ rows[j] - int(i == j)) ** 2
    torch.testing.assert_close(method.regularizer(net), 0.7 * expected)


def test_the_penalty_of_the_library_is_the_mean_of_the_distances():
    net, method = two(start=3, rank=2, gamma=0.7, mean_norm=True)
    gaps = [rows @ rows.T - torch.eye(3) for layer in net for rows in (layer.P.T, layer.Q)]
    torch.testing.assert_close(method.regularizer(net), 0.7 * sum(torch.linalg.norm(gap) for gap in gaps) / 4)


@pytest.mark.parametrize("mean_norm", [False, True])
def test_the_penalty_vanishes_where_directions_are_orthonormal_and_leaves_λ_alone(mean_norm):
    net, method = two(start=3, rank=2, mean_norm=mean_norm)
    method.regularizer(net).backward()
    assert all((p.grad is None) == name.endswith("lam") for name, p in trainable(net).items())
    with torch.no_grad():
        for layer in net:
            layer.P.copy_(torch.linalg.qr(torch.randn_like(layer.P))[0])
            layer.Q.copy_(torch.linalg.qr(torch.randn_like(layer.Q.T))[0].T)
    assert method.regularizer(net) < 1e-5


def test_training_makes_the_directions_orthonormal_and_without_the_penalty_does_not(model):
    apart = {}
    for gamma in (0.0, 0.1):
        torch.manual_seed(0)
        AdaLoRA(rank=2, initial_rank=3, gamma=gamma, targets=("v",)).attach(model)
        fit(model, task("copy+next"), steps=30, lr=5e-2, batch_size=4, progress=False)
        apart[gamma] = AdaLoRA(gamma=1.0).regularizer(model).item() / 4
        detach(model)
    assert apart[0.1] < 0.1 < 1 < apart[0.0]


# ---- importance -------------------------------------------------------------------------------------------------


def steps_of(net, method, number, seed=1):
    """Steps of no optimizer: fresh weights and gradients each time, then `after_step`. Yields t."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(number):
        for p in trainable(net).values():
            p.data = torch.randn(p.shape, generator=generator)
            p.grad = torch.randn(p.shape, generator=generator)
        yield step + 1


def test_importance_is_the_smoothed_sensitivity_times_its_uncertainty():
    net, method = two(start=3, rank=2, beta1=0.8, beta2=0.6, warmup=0.9, final=0)
    mean, spread = {}, {}
    for t in steps_of(net, method, 4):
        for name, p in trainable(net).items():
            now = (p.detach() * p.grad).abs()
            mean[name] = 0.8 * mean.get(name, 0) + 0.2 * now
            spread[name] = 0.6 * spread.get(name, 0) + 0.4 * (now - mean[name]).abs()
        method.after_step(net, t - 1, 100)
    s = {name: mean[name] * spread[name] for name in mean}
    for i, layer in enumerate(net):
        P, lam, Q = (s[f"{i}.{name}"] for name in ("P", "lam", "Q"))
        expected = [lam[k] + sum(P[:, k]) / len(P) + sum(Q[k]) / Q.shape[1] for k in range(3)]
        torch.testing.assert_close(layer.scores(), torch.stack(expected))


def test_more_uncertainty_and_more_sensitivity_both_raise_the_score():
    net = adapted(nn.Linear(6, 5), start=2, rank=1)
    method = AdaLoRA(initial_rank=2, rank=1, targets=("layer",))
    for step in range(20):  # triplet 0 has a steady gradient, triplet 1 the same on average, in bursts
        for p in trainable(net).values():
            p.grad = torch.zeros_like(p)
        net.layer.lam.data = torch.ones(2)
        net.layer.lam.grad = torch.tensor([-1.0, 2.0 * (step % 2)])
        method.after_step(net, step, 1000)
    steady, bursts = net.layer.scores()
    assert bursts > 5 * steady > 0


def test_one_ranking_is_made_of_all_matrices():
    net, _ = two(start=3, rank=2)
    for layer, wanted in zip(net, ([0.1, 0.9, 0.8], [0.7, 0.2, 0.95]), strict=True):
        layer.mean = {"P": torch.zeros(1, 3), "lam": torch.tensor(wanted), "Q": torch.zeros(3, 1)}
        layer.spread = {"P": torch.zeros(1, 3), "lam": torch.ones(3), "Q": torch.zeros(3, 1)}
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
    net, method = two(start=6, rank=2, warmup=0.2, final=0.25, every=5)
    for t in steps_of(net, method, 40):
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
    net, method = two(start=2, rank=0.5, warmup=0, final=0.5, every=1, beta1=0.1, beta2=0.1)
    seen = {}
    for t in range(1, 41):
        favour(net, *((0, 0) if t < 18 else (1, 1) if t < 25 else (0, 0)))
        method.after_step(net, t - 1, 40)
        seen[t] = [layer.lam.detach().bool().tolist() for layer in net]
    assert seen[17] == [[True, False], [False, False]]
    assert seen[19] == seen[20] == [[False, False], [False, True]]
    assert all(seen[t] == seen[20] for t in range(21, 41))


def test_importance_rests_from_the_final_choice_on():
    net, method = two(start=3, rank=1, warmup=0, final=0.5)
    scores = {}
    for t in steps_of(net, method, 20):
        method.after_step(net, t - 1, 20)
        scores[t] = torch.cat([layer.scores() for layer in net])
    assert not torch.equal(scores[9], scores[8])
    assert all(torch.equal(scores[t], scores[9]) for t in range(10, 21))


def test_a_budget_that_keeps_all_masks_nothing():
    net, method = two(start=3, rank=3)
    for t in steps_of(net, method, 20):
        method.after_step(net, t - 1, 20)
        assert ranks(net) == {"0": 3, "1": 3}


def test_training_for_one_step_ends_within_the_budget():
    net, method = two(start=3, rank=1)
    for t in steps_of(net, method, 1):
        method.after_step(net, t - 1, 1)
    assert sum(ranks(net).values()) == 2


def test_each_training_runs_its_own_schedule(model):
    AdaLoRA(rank=1, initial_rank=2, targets=("q", "v")).attach(model)
    assert set(ranks(model).values()) == {0}
    kept = []
    for seed in (0, 1):
        fit(model, task("copy+next"), steps=20, lr=1e-2, batch_size=4, seed=seed, progress=False)
        assert sum(ranks(model).values()) == 4
        history = [layer.history for layer in layers(model).values()]
        assert {entry[0] for entry in history} == {(0, 2)}
        assert [t for t, _ in history[0]] == [0, 10, 14]
        kept.append([layer.kept for layer in layers(model).values()])
    assert all(torch.equal(layer.lam != 0, k) for layer, k in zip(layers(model).values(), kept[1], strict=True))


# ---- on a model -------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(model):
    torch.manual_seed(0)
    AdaLoRA(rank=1, initial_rank=3).attach(model)
    fit(model, task("copy+next"), steps=15, lr=5e-2, batch_size=4, progress=False)
    assert sum(ranks(model).values()) == 12
    assert len(set(ranks(model).values())) > 1
    return model


def test_fit_learns_with_a_budget_and_the_base_comes_back_bit_for_bit(model):
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    AdaLoRA(rank=2, initial_rank=3).attach(model)
    history = fit(model, task("copy+plain"), steps=30, lr=5e-2, batch_size=8, progress=False)
    assert sum(ranks(model).values()) == 24
    assert history.loss[-1] < 0.9 * history.loss[0]
    with disabled(model):
        assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())
    detach(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_delta_holds_the_factors_alone_and_gives_the_ranks_back(trained, tokens, tmp_path):
    y, chosen = trained(tokens), ranks(trained)
    save(trained, tmp_path / "delta.safetensors")
    stored = load_file(tmp_path / "delta.safetensors")
    assert set(stored) == {f"{path}.{name}" for path in SIX for name in ("P", "lam", "Q")}
    again = load(tmp_path / "delta.safetensors", detach(trained))
    assert torch.equal(again(tokens), y)
    assert ranks(again) == chosen
    assert again.attachments[0].method == AdaLoRA(rank=1, initial_rank=3)
    detach(again)
    with torch.no_grad():
        again.blocks[0].attn.q.weight += 1
    with pytest.raises(DeltaError, match="another base"):
        load(tmp_path / "delta.safetensors", again)


def test_ranks_are_those_of_the_update(trained):
    for path, layer in layers(trained).items():
        assert torch.linalg.matrix_rank(layer.delta()) == ranks(trained)[path]


def test_merged_and_detached_models_compute_what_they_should(trained, tokens):
    y = trained(tokens)
    with disabled(trained):
        bare = trained(tokens)
    assert not torch.allclose(y, bare, atol=0.1)
    torch.testing.assert_close(merge(trained)(tokens), y, atol=1e-5, rtol=1e-5)
    assert torch.equal(unmerge(trained)(tokens), y)
    assert torch.equal(detach(trained)(tokens), bare)


def test_generation_with_and_without_the_cache_is_the_same(trained, tokens):
    kinds = [trained.generate(tokens, 6, cache=cache) for cache in (True, False)]
    assert torch.equal(*kinds)
    with disabled(trained):
        assert not torch.equal(trained.generate(tokens, 6), kinds[0])


def test_stacked_on_other_methods_and_on_itself_only_the_upper_one_is_trained(model):
    randomise(LoRA(targets=("q",)).attach(model))
    randomise(AdaLoRA(rank=1, initial_rank=2, targets=("q", "v")).attach(model, stack=True))
    below = {name: p.detach().clone() for name, p in model.named_parameters()}
    AdaLoRA(rank=1, initial_rank=3, targets=("q", "up")).attach(model, stack=True)
    assert set(ranks(model)) == {f"blocks.{i}.{name}" for i in range(2) for name in ("attn.q", "mlp.up")}
    fit(model, task("copy+next"), steps=10, lr=1e-2, batch_size=4, progress=False)
    assert sum(ranks(model).values()) == 4
    now = dict(model.named_parameters())
    moved = {name for name in now if name not in trainable(model)}
    assert len(moved) == len(below)
    assert all(any(torch.equal(now[name], old) for old in below.values()) for name in moved)


def test_the_input_is_not_touched():
    net, x = adapted(nn.Linear(5, 5)), torch.randn(3, 5)
    before = x.clone()
    net(x)
    assert torch.equal(x, before)


# ---- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"start": 0}, "start must be a whole number of at least 1, got 0"),
        ({"start": 4.5}, "start must be a whole number of at least 1, got 4.5"),
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"rank": 0}, "rank must be above 0 and at most start=6, got 0"),
        ({"rank": 7}, "at most start=6, got 7; raise start"),
        ({"gamma": -0.1}, "gamma must be a number of at least 0, got -0.1"),
        ({"gamma": float("nan")}, "got nan"),
        ({"beta1": 1.0}, "below 1, got 1.0 and 0.85"),
        ({"beta2": -0.1}, "got 0.85 and -0.1"),
        ({"warmup": 0.5, "final": 0.5}, r"sum below 1, got \(0.5, 0.5\)"),
        ({"final": -0.1}, r"got \(0.1, -0.1\)"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        AdaLoRA(**settings)


def test_what_it_cannot_stand_in_front_of_is_told():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Linear(4, 4))
    with pytest.raises(TypeError, match="AdaLoRA goes in front of Linear; '0' is a Conv2d"):
        AdaLoRA(targets=("0",)).attach(net)
    with pytest.raises(TypeError, match=r"'1.weight' is a Parameter"):
        AdaLoRA(targets=("1.weight",)).attach(net)
    with pytest.raises(ValueError, match="no module or weight is named 'nothing'"):
        AdaLoRA(targets=("nothing",)).attach(net)
