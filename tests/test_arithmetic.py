"""Arithmetic with deltas against arithmetic with weights: what comes out is compared by the weights of models."""

import copy
import math

import pytest
import torch
from torch import nn

from minipeft.arithmetic import add, add_factors, changes, compress, concatenate, dare, relative_error, ties
from minipeft.attach import Method, Wrapper, attachments, trainable
from minipeft.deltas import DeltaError, delta_of, fingerprint, load, read, save, updates, write
from minipeft.methods import DoRA, Full, LoRA, PiSSA, QLoRA
from minipeft.models.transformer import Config, Transformer
from minipeft.targets import wrap
from minipeft.views import merge

Q, UP, TOKEN = "blocks.0.attn.q.weight", "blocks.0.mlp.up.weight", "embed.token.weight"


@pytest.fixture
def model():
    return Transformer(Config(vocab=11, dim=12, layers=1, heads=3, ff=20, context=9)).eval()


def stirred(model, method, notes=None):
    """A delta of the method with everything away from its start."""
    view = method.attach(model)
    with torch.no_grad():
        for p in trainable(view).values():
            p += 0.3 * torch.randn_like(p)
    return delta_of(view, notes)


def moved(model, delta):
    """What a delta does to the weights, looked up in two state dicts: {name: W' - W}, without what did not move."""
    base, after = model.state_dict(), merge(load(delta, model)).state_dict()
    return {name: after[name] - W for name, W in base.items() if not torch.equal(after[name], W)}


def same(got, wanted):
    assert set(got) == set(wanted)
    for name, change in wanted.items():
        torch.testing.assert_close(got[name], change, atol=2e-6, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def total(tasks, weights):
    """Σ wᵢ ΔWᵢ, name by name."""
    result = {}
    for task, w in zip(tasks, weights, strict=True):
        for name, change in task.items():
            result[name] = result.get(name, 0) + w * change
    return result


@pytest.fixture
def loras(model):
    """Other ranks, scales and places: two share the up-projection, q and the embedding belong to one each."""
    return [
        stirred(model, LoRA(2, 7, ("q", "up"), rank_pattern={"up": 3}), {"task": "one"}),
        stirred(model, LoRA(4, 5, ("up", "token"), rslora=True), {"task": "two"}),
    ]


@pytest.fixture
def mixed(model, loras):
    """A delta of every method that is here."""
    methods = [Full(("q", "norm1")), DoRA(2, 3, ("q", "up")), PiSSA(3, ("up", "down"))]
    return [*loras, *(stirred(model, method) for method in methods)]


# ---- on ΔW ------------------------------------------------------------------------------------------------------


def test_add_is_the_weighted_sum_of_the_changes_of_any_methods(model, mixed):
    mark = fingerprint(model)
    weights = [0.7, -0.3, 1.0, 2.0, 0.5]
    tasks = [moved(model, delta) for delta in mixed]
    delta = add(model, mixed, weights)
    assert type(delta.method) is Full
    same(moved(model, delta), total(tasks, weights))
    same(moved(model, add(model, mixed)), total(tasks, [1] * 5))
    same(changes(model, mixed[3]), tasks[3])
    assert fingerprint(model) == mark
    assert all(p.requires_grad for p in model.parameters())


def test_a_negative_weight_takes_a_task_away_again(model, loras):
    both = add(model, loras)
    back = moved(model, add(model, [both, loras[1]], [1, -1]))
    same({name: t for name, t in back.items() if name != TOKEN}, moved(model, loras[0]))
    assert back.get(TOKEN, torch.zeros(1)).abs().max() < 1e-6
    gone = changes(model, add(model, [loras[0], loras[0]], [1, -1]))
    assert set(gone) == {Q, UP}
    assert not any(change.any() for change in gone.values())


def trim_by_hand(task, density):
    numbers = sorted((abs(x) for change in task.values() for x in change.flatten().tolist()), reverse=True)
    least = numbers[max(1, round(density * len(numbers))) - 1]
    return {name: torch.where(change.abs() >= least, change, 0.0) for name, change in task.items()}


@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
@pytest.mark.parametrize("weights", [[1, 1, 1], [0.5, 2.0, -0.8]], ids=str)
def test_ties_trims_over_the_whole_task_elects_a_sign_and_averages_who_agrees(model, loras, weights, density):
    deltas = [*loras, stirred(model, Full(("q", "up")))]
    tasks = [trim_by_hand(changes(model, delta), density) for delta in deltas]
    got = changes(model, ties(model, deltas, weights, density))
    assert set(got) == {Q, UP, TOKEN, "blocks.0.attn.q.bias", "blocks.0.mlp.up.bias"}
    for name, change in got.items():
        parts = [w * task[name] for w, task in zip(weights, tasks, strict=True) if name in task]
        for place in torch.cartesian_prod(*map(torch.arange, change.shape)).view(change.numel(), -1).tolist():
            values = [part[tuple(place)].item() for part in parts]
            side = math.copysign(1, sum(values))
            agree = [v for v in values if v * side > 0]
            wanted = sum(agree) / len(agree) if agree else 0
            assert change[tuple(place)].item() == pytest.approx(wanted, abs=2e-6)


def test_ties_of_one_task_keeps_its_share_of_numbers_and_lets_them_be(model, loras):
    exact = torch.cat([c.flatten() for c in changes(model, loras[0]).values()])
    got = torch.cat([c.flatten() for c in changes(model, ties(model, loras[:1])).values()])
    assert (got != 0).sum() == round(0.2 * len(exact))
    kept = got != 0
    torch.testing.assert_close(got[kept], exact[kept], atol=1e-6, rtol=1e-5)
    assert exact[kept].abs().min() > exact[~kept].abs().max()


def test_dare_drops_by_lot_and_rescales_what_stays(model):
    delta = stirred(model, Full(("up", "down")))
    exact = torch.cat([c.flatten() for c in changes(model, delta).values()])
    got = torch.cat([c.flatten() for c in changes(model, dare(model, [delta], [0.7], density=0.25)).values()])
    kept = got != 0
    assert kept.float().mean().item() == pytest.approx(0.25, abs=0.06)
    torch.testing.assert_close(got[kept], 0.7 * exact[kept] / 0.25, atol=1e-5, rtol=1e-4)
    again = {seed: dare(model, [delta], density=0.25, seed=seed).tensors for seed in (0, 0, 1)}
    assert all(torch.equal(again[0][n], t) for n, t in dare(model, [delta], density=0.25).tensors.items())
    assert not torch.equal(again[0][UP], again[1][UP])


def test_dare_drops_for_each_task_other_numbers_and_has_the_expectation_of_add(model):
    delta = stirred(model, Full(("up.weight",)))
    same(changes(model, dare(model, [delta, delta], [0.5, 0.3], 1.0)), total([changes(model, delta)], [0.8]))
    twice, once = (changes(model, dare(model, [delta] * n, density=0.5))[UP] for n in (2, 1))
    assert (twice != 0).float().mean() > 0.65  # three quarters, if the lots are apart
    assert (once != 0).float().mean() < 0.6
    mean = sum(changes(model, dare(model, [delta], density=0.5, seed=i))[UP] for i in range(50)) / 50
    exact = changes(model, delta)[UP]
    assert (mean - exact).norm() / exact.norm() < 0.2
    assert (mean * exact).sum() / exact.square().sum() == pytest.approx(1, abs=0.03)


def test_tied_weights_are_added_once_and_torn_ones_are_refused(model):
    model.head = nn.Linear(12, 11, bias=False)
    model.head.weight = model.embed.token.weight
    one, other = (stirred(model, Full(("token", "head"))) for _ in range(2))
    both = add(model, [one, other], [1, 2])
    assert set(both.tensors) == {TOKEN}
    W, A, B = model.embed.token.weight, one.tensors[TOKEN], other.tensors[TOKEN]
    torch.testing.assert_close(both.tensors[TOKEN], W + (A - W) + 2 * (B - W))
    view = load(both, model)
    assert view.head.weight is view.embed.token.weight
    torn = stirred(model, LoRA(2, 3, ("token",)))
    with pytest.raises(DeltaError, match="the two would change differently"):
        add(model, [one, torn])
    same(changes(model, add(model, [torn])), changes(model, torn))


# ---- compression ------------------------------------------------------------------------------------------------


def test_compressing_keeps_the_largest_singular_values_and_tells_what_is_lost(model):
    delta = stirred(model, Full())
    exact = changes(model, delta)
    for rank in (1, 5):
        small = compress(model, delta, rank)
        got = changes(model, small)
        assert set(small.notes["error"]) == set(exact)
        for name, change in exact.items():
            error = small.notes["error"][name]
            if change.ndim < 2:
                assert error == 1.0
                assert name not in got
                continue
            U, S, Vt = torch.linalg.svd(change, full_matrices=False)
            torch.testing.assert_close(got[name], U[:, :rank] * S[:rank] @ Vt[:rank], atol=1e-5, rtol=1e-4)
            assert error == pytest.approx(((got[name] - change).norm() / change.norm()).item(), rel=1e-4)
            assert error == pytest.approx((S[rank:].square().sum() / S.square().sum()).sqrt().item(), rel=1e-4)


def test_a_compressed_delta_is_a_lora_like_any_other(model, tmp_path):
    full, tokens = stirred(model, Full(("q", "token", "position"))), torch.randint(11, (2, 5))
    small = compress(model, full, 9)
    assert {path: len(t) for path, t in small.tensors.items() if path.endswith(".A")} == {
        "blocks.0.attn.q.A": 9, "embed.token.A": 9, "embed.position.A": 9
    }  # fmt: skip
    assert small.tensors["embed.token.A"].shape == (9, 11)  # as an embedding has it
    write(small, tmp_path / "small")
    view = load(tmp_path / "small", model)
    assert attachments(view)[0].method == small.method
    save(view, tmp_path / "again")
    assert (tmp_path / "again").stat().st_size <= (tmp_path / "small").stat().st_size
    assert torch.equal(load(small, model)(tokens), view(tokens))
    assert max(compress(model, small, 9).notes["error"].values()) < 1e-5
    exact = compress(model, full, 100)
    assert max(e for name, e in exact.notes["error"].items() if not name.endswith("bias")) < 1e-5
    assert {len(t) for path, t in exact.tensors.items() if path.endswith(".A")} == {12, 11, 9}


def test_convolutions_and_weights_without_a_module_are_compressed_too():
    net = nn.ModuleDict({"conv": nn.Conv2d(4, 6, 3, groups=2), "rnn": nn.LSTM(3, 4)})
    delta = stirred(net, Full(("conv.weight", "rnn")))
    small = compress(net, delta, 3)
    got, exact = changes(net, small), changes(net, delta)
    assert set(got) == {"conv.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    for name, change in got.items():
        assert 0.01 < small.notes["error"][name] < 0.9 or name == "rnn.weight_ih_l0"
        miss = (change - exact[name]).norm() / exact[name].norm()
        assert miss.item() == pytest.approx(small.notes["error"][name], abs=1e-5)


def test_what_did_not_move_loses_nothing(model):
    delta = delta_of(Full(("q", "norm1")).attach(model))
    assert set(compress(model, delta, 2).notes["error"].values()) == {0.0}


def test_the_relative_error_is_told_weight_by_weight(model, loras):
    exact = add(model, loras)
    assert max(relative_error(model, concatenate(loras), exact).values()) < 1e-5
    assert relative_error(model, exact, exact) == {Q: 0, UP: 0, TOKEN: 0}
    assert relative_error(model, add(model, loras, [3, 3]), exact) == pytest.approx({Q: 2, UP: 2, TOKEN: 2}, rel=1e-4)
    missing, surplus = relative_error(model, loras[0], exact), relative_error(model, exact, loras[0])
    assert missing[TOKEN] == 1
    assert surplus[TOKEN] == math.inf
    assert missing[Q] < 1e-5
    change = changes(model, loras[0])[UP], changes(model, exact)[UP]
    assert missing[UP] == pytest.approx(((change[0] - change[1]).norm() / change[1].norm()).item(), rel=1e-4)


# ---- on factors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [0.7, 0.3], [1.5, -1]], ids=str)
def test_concatenation_is_the_exact_sum_as_one_lora(model, loras, weights):
    delta = concatenate(loras, weights)
    assert type(delta.method) is LoRA
    ranks = {path: len(t) for path, t in delta.tensors.items() if path.endswith(".A")}
    assert ranks == {"blocks.0.attn.q.A": 2, "blocks.0.mlp.up.A": 3 + 4, "embed.token.A": 4}
    same(moved(model, delta), total([moved(model, d) for d in loras], weights or [1, 1]))


def test_factors_added_one_by_one_have_mixed_terms(model):
    deltas = [stirred(model, LoRA(3, alpha, ("q", "token"))) for alpha in (7, 2)]
    weights, s = [0.7, -0.4], [7 / 3, 2 / 3]
    got = moved(model, add_factors(deltas, weights))
    for name, turned in ((Q, False), (TOKEN, True)):
        path = name.removesuffix(".weight")
        (A1, B1), (A2, B2) = ((d.tensors[f"{path}.A"], d.tensors[f"{path}.B"]) for d in deltas)
        a, b = 0.7 * s[0], 0.4 * s[1]
        wanted = a * B1 @ A1 - b * B2 @ A2 + math.sqrt(a * b) * (B2 @ A1 - B1 @ A2)
        torch.testing.assert_close(got[name], wanted.T if turned else wanted, atol=1e-5, rtol=1e-4)
    error = relative_error(model, add_factors(deltas, weights), add(model, deltas, weights))
    assert min(error.values()) > 0.3


def test_of_one_lora_they_are_the_same_and_the_sign_survives(model, loras):
    for weight in (0.5, -2):
        wanted = total([moved(model, loras[0])], [weight])
        same(moved(model, add_factors(loras[:1], [weight])), wanted)
        same(moved(model, concatenate(loras[:1], [weight])), wanted)


def test_ranks_that_differ_cannot_be_added_factor_by_factor(loras):
    with pytest.raises(DeltaError, match=r"ranks 3, 4 at blocks.0.mlp.up cannot be added: concatenate them"):
        add_factors(loras)


# ---- around it --------------------------------------------------------------------------------------------------


def test_results_can_be_saved_and_calculated_with_again(model, loras, tmp_path):
    paths = [tmp_path / "one", str(tmp_path / "two")]
    for delta, path in zip(loras, paths, strict=True):
        write(delta, path)
    tokens = torch.randint(11, (2, 5))
    for name, result in {
        "add": add(model, paths, [1, -1]),
        "ties": ties(model, paths),
        "dare": dare(model, [paths[0]]),
        "concatenate": concatenate(paths),
        "compress": compress(model, paths[1], 2),
        "again": ties(model, [dare(model, paths, seed=1), add(model, paths), concatenate(paths)], density=1),
    }.items():
        size = write(result, tmp_path / "new" / name)
        assert size == (tmp_path / "new" / name).stat().st_size
        y = load(result, copy.deepcopy(model))(tokens)
        assert torch.equal(load(tmp_path / "new" / name, copy.deepcopy(model))(tokens), y)
        assert read(tmp_path / "new" / name).notes == result.notes
    assert add(model, paths, [1, -1]).notes == {
        "made by": "add", "of": [{"task": "one"}, {"task": "two"}], "weights": [1, -1]
    }  # fmt: skip


def test_the_given_deltas_are_not_touched(model, loras):
    before = copy.deepcopy(loras)
    for function in (add, ties, dare):
        function(model, loras, [0.5, -2])
    concatenate(loras, [0.5, -2])
    compress(model, loras[0], 1)
    for delta, old in zip(loras, before, strict=True):
        assert all(torch.equal(t, old.tensors[name]) for name, t in delta.tensors.items())


WITH_LISTS = [
    add, ties, dare, lambda model, *rest: concatenate(*rest), lambda model, *rest: add_factors(*rest)
]  # fmt: skip


@pytest.mark.parametrize("function", WITH_LISTS, ids=["add", "ties", "dare", "concatenate", "add_factors"])
def test_lists_that_cannot_be_calculated_with_are_told(model, loras, function, tmp_path):
    other = copy.deepcopy(loras[1])
    other.base = "0" * 64
    for deltas, weights, says in [
        ([], None, "list of deltas is empty"),
        (loras, [1], "there are 2 deltas and 1 weights"),
        (loras[:1], [1, 2], "there are 1 deltas and 2 weights"),
        (loras[0], None, "single one: put it in brackets"),
        (str(tmp_path), None, "single one: put it in brackets"),
        ([loras[0], other], None, r"delta 2 of 2, LoRA\(.*belongs to another base than the first \(000000000000, not"),
        ([loras[0], tmp_path / "none"], None, "there is no file"),
    ]:
        with pytest.raises(ValueError, match=says):
            function(model, deltas, weights)


@pytest.mark.parametrize("function", WITH_LISTS, ids=["add", "ties", "dare", "concatenate", "add_factors"])
@pytest.mark.parametrize("weight", [math.nan, math.inf, "1", None, True])
def test_weights_that_are_no_numbers_are_told(model, loras, function, weight):
    with pytest.raises(ValueError, match="weights are finite numbers"):
        function(model, loras[:1], [weight])


def test_changes_that_are_not_finite_are_told(model, loras):
    loras[0].tensors["blocks.0.attn.q.B"][0, 0] = torch.inf
    for call in (lambda: add(model, loras), lambda: compress(model, loras[0], 2), lambda: ties(model, loras)):
        with pytest.raises(DeltaError, match=r"the change of blocks\.0\.attn\.q\.weight is not finite"):
            call()
    for function in (concatenate, add_factors):
        with pytest.raises(DeltaError, match="is not finite"):
            function(loras[:1])


def test_the_arithmetic_of_a_quantized_base_is_that_of_what_was_trained(model):
    """W + ΔW has to be Ŵ + s·BA: s·BA on the original W is a model that nobody trained."""
    delta, tokens = stirred(model, QLoRA(2, 3, ("q", "up"), block_size=8, quant_type="nf2")), torch.randint(11, (2, 5))
    wanted = load(delta, model)(tokens)
    torch.testing.assert_close(load(add(model, [delta]), model)(tokens), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(load(compress(model, delta, 12), model)(tokens), wanted, atol=1e-4, rtol=1e-3)
    view = load(delta, model)
    W, change = updates(view)[Q]
    assert torch.linalg.matrix_rank(change) == 2
    assert not torch.equal(W, model.blocks[0].attn.q.weight)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_can_be_compressed_too(model, kind):
    half = model.to(kind)
    delta = stirred(half, Full(("q", "up")))
    small = compress(half, delta, 12)
    assert {t.dtype for t in small.tensors.values()} == {kind}
    for name, change in changes(half, small).items():
        exact = changes(half, delta)[name]
        assert (change - exact).norm() < 0.05 * exact.norm()


class Louder(Wrapper):
    def __init__(self, base):
        super().__init__(base)
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, *args):
        return self.factor * self.base(*args)


class Loud(Method):
    """Something beside the weights, like an adapter or a prompt."""

    def insert(self, model):
        wrap(model, ("attn",), lambda module, path: Louder(module), nn.Module)


def test_methods_without_a_change_of_weights_are_told(model, loras):
    delta = delta_of(Loud().attach(model))
    for call in (
        lambda: add(model, [loras[0], delta]),
        lambda: ties(model, [delta]),
        lambda: dare(model, [delta]),
        lambda: compress(model, delta, 2),
        lambda: relative_error(model, loras[0], delta),
    ):
        with pytest.raises(DeltaError, match="Loud does more than change the base's weights, so it has no ΔW"):
            call()
    for function in (concatenate, add_factors):
        for bad in (delta, stirred(model, DoRA(2))):
            with pytest.raises(DeltaError, match=r"is no LoRA, so it has no factors.*`add\(model, deltas\)`"):
                function([loras[0], bad])


def test_another_base_or_one_with_something_attached_is_told(model, loras):
    with pytest.raises(DeltaError, match=r"belongs to another base.*with LoRA\(rank=4\) on it"):
        add(LoRA().attach(model), loras)
    with torch.no_grad():
        model.head.bias += 1
    with pytest.raises(DeltaError, match=r"the delta of LoRA\(rank=2.*belongs to another base"):
        add(model, loras)


@pytest.mark.parametrize("density", [0, -0.5, 1.01, math.nan])
def test_a_density_that_is_no_share_is_told(model, loras, density):
    for function in (ties, dare):
        with pytest.raises(ValueError, match=f"above 0 and at most 1, got {density}"):
            function(model, loras, density=density)


def test_a_compression_that_cannot_be_is_told(model):
    for rank in (0, 1.5):
        with pytest.raises(ValueError, match=f"at least 1, got {rank}"):
            compress(model, stirred(model, Full(("q",))), rank)
    with pytest.raises(DeltaError, match=r"Full\(.*changes no matrix, only blocks.0.norm1.weight, blocks.0.norm1.bias"):
        compress(model, stirred(model, Full(("norm1",))), 2)
