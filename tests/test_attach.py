"""Putting methods on and taking them off, on models that are not ours: widths differ, and names are traps."""

import copy

import pytest
import torch
from torch import nn

from minipeft.attach import (
    Method,
    Wrapper,
    attachments,
    detach,
    disabled,
    match,
    merge,
    summary,
    trainable,
    unmerge,
    wrap,
)
from minipeft.deltas import fingerprint, load, save
from minipeft.methods import Full, LoRA
from minipeft.methods.lora import LoRALinear
from minipeft.models.transformer import Config, Transformer
from minipeft.training import fit


class Net(nn.Module):
    """Names that a search for "A", "lora" or "q" in the text would take for what they are not."""

    def __init__(self):
        super().__init__()
        self.Attention = nn.Linear(5, 7)
        self.seq = nn.Linear(7, 6)
        self.inner = nn.ModuleDict({"q": nn.Linear(6, 4), "explora_head": nn.Linear(4, 3)})

    def forward(self, x):
        x = self.seq(torch.tanh(self.Attention(x)))
        return self.inner["explora_head"](torch.tanh(self.inner["q"](x)))


def stir(model):
    """Give everything that can be trained values far from their start."""
    with torch.no_grad():
        for p in trainable(model).values():
            p.normal_()


def state(model):
    return {name: (t.clone(), p) for (name, t), p in zip(model.state_dict().items(), model.parameters(), strict=True)}


def same(model, before):
    now = state(model)
    assert list(now) == list(before)
    return all(torch.equal(now[n][0], before[n][0]) and now[n][1] is before[n][1] for n in before)


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def x():
    return torch.randn(4, 5)


def test_exactly_the_method_is_trainable(net):
    LoRA(targets=("q", "Attention")).attach(net)
    assert set(trainable(net)) == {"Attention.A", "Attention.B", "inner.q.A", "inner.q.B"}


def test_detach_gives_the_base_back_bit_for_bit(net, x):
    net.seq.requires_grad_(False)
    before, y, modules = state(net), net(x), list(net.modules())
    LoRA(targets=("q", "seq")).attach(net)
    stir(net)
    assert not torch.allclose(net(x), y, atol=1e-3)
    detach(net)
    assert same(net, before)
    assert torch.equal(net(x), y)
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == {"seq.weight", "seq.bias"}
    assert attachments(net) == []


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        (LoRA(targets=("q", "missing")), ValueError, "'missing'.*seq \\(Linear\\)"),
        (LoRA(targets=("Attention", "inner")), TypeError, "'inner' is a ModuleDict"),
        (LoRA(targets="q"), ValueError, "tuple of names"),
        (LoRA(targets=()), ValueError, "empty"),
        (LoRA(targets=("q",), rank_pattern={"k": 2}), ValueError, "'k'"),
        (LoRA(targets=lambda name, module: False), ValueError, "lambda"),
        (Full(targets=("nothing",)), ValueError, "'nothing'"),
    ],
)
def test_a_recipe_that_does_not_fit_leaves_the_model_as_it_was(net, method, error, says):
    before = state(net)
    with pytest.raises(error, match=says):
        method.attach(net)
    assert same(net, before)
    assert all(p.requires_grad for p in net.parameters())
    assert attachments(net) == []


def test_targets_are_suffixes_of_dotted_names(net):
    def paths(targets):
        return [path for path, *_ in match(net, targets)]

    assert paths(("q",)) == paths((".inner.q",)) == ["inner.q"]  # not seq
    with pytest.raises(ValueError, match=r"'\.q'"):
        paths((".q",))  # a whole name
    assert sorted(paths(("inner.q", "q", "weight"))) == [
        "Attention.weight", "inner.explora_head.weight", "inner.q", "inner.q.weight", "seq.weight"
    ]  # fmt: skip
    assert paths(lambda name, module: isinstance(module, nn.Linear) and module.out_features > 5) == [
        "Attention",
        "seq",
    ]


def test_a_predicate_is_kept_as_the_names_it_chose(net):
    LoRA(targets=lambda name, module: name.endswith("q")).attach(net)
    assert attachments(net)[0].method == LoRA(targets=(".seq", ".inner.q"))


def test_a_second_attach_is_an_error_unless_asked_for(net, x):
    first, second = LoRA(rank=2, targets=("q",)), LoRA(rank=3, targets=("q", "seq"))
    before = state(net)
    first.attach(net)
    stir(net)
    y = net(x)
    with pytest.raises(RuntimeError, match="attached already"):
        second.attach(net)
    assert torch.equal(net(x), y)
    assert len(trainable(net)) == 2
    second.attach(net, stack=True)
    assert torch.equal(net(x), y)  # the second starts as the identity on top of the first
    assert set(trainable(net)) == {"inner.q.A", "inner.q.B", "seq.A", "seq.B"}
    assert trainable(net)["inner.q.A"].shape == (3, 6)  # the first, below, is frozen
    stir(net)
    y = net(x)
    torch.testing.assert_close(merge(net)(x), y)
    assert torch.equal(unmerge(net)(x), y)
    assert same(detach(net), before)


def test_disabled_nests_and_survives_an_exception(net, x):
    y = net(x)
    LoRA(targets=("q",)).attach(net)
    stir(net)
    adapted = net(x)
    with disabled(net):
        with disabled(net):
            assert torch.equal(net(x), y)
        assert torch.equal(net(x), y)
    with pytest.raises(RuntimeError, match="shapes"), disabled(net):
        net(x.T)
    assert torch.equal(net(x), adapted)
    assert not torch.equal(adapted, y)


@pytest.mark.parametrize("method", [LoRA(targets=("q", "seq")), Full()], ids=str)
def test_disabled_while_merged_is_the_base_too(net, x, method):
    y = net(x)
    method.attach(net)
    stir(net)
    adapted = merge(net)(x)
    with disabled(net):
        assert torch.equal(net(x), y)
    assert torch.equal(net(x), adapted)


def test_merged_is_plain_modules_with_the_same_outputs_and_unmerging_is_exact(net, x):
    y0, before = net(x), state(net)
    LoRA(targets=("q", "seq")).attach(net)
    stir(net)
    y = net(x)
    names = list(before)
    merge(net)
    assert type(net.inner["q"]) is nn.Linear
    assert list(net.state_dict()) == names
    assert trainable(net) == {}
    torch.testing.assert_close(net(x), y)
    assert not torch.allclose(y, y0, atol=1e-3)
    with pytest.raises(RuntimeError, match="merged already"):
        merge(net)
    with pytest.raises(RuntimeError, match="merged"):
        LoRA(targets=("seq",)).attach(net, stack=True)
    with pytest.raises(ValueError, match="nothing to train"):
        fit(net, None, steps=1, lr=1e-3)
    assert torch.equal(unmerge(net)(x), y)
    assert len(trainable(net)) == 4
    with pytest.raises(RuntimeError, match="not merged"):
        unmerge(net)
    assert same(detach(net), before)


def test_detaching_a_merged_model_gives_the_base(net, x):
    before = state(net)
    LoRA(targets=("q",)).attach(net)
    stir(net)
    assert same(detach(merge(net)), before)


def test_merging_what_cannot_be_merged_changes_nothing(net, x):
    class Loud(Wrapper):
        def forward(self, x):
            return 2 * self.base(x)

    class Mixed(Method):
        def insert(self, model):
            LoRA(targets=("seq",)).insert(model)
            wrap(model, ("q",), lambda module, path: Loud(module))

    with pytest.raises(RuntimeError, match="nothing is attached"):
        merge(net)
    Mixed().attach(net)
    stir(net)
    y = net(x)
    with pytest.raises(TypeError, match="Loud cannot be merged"):
        merge(net)
    assert torch.equal(net(x), y)
    assert isinstance(net.seq, Wrapper)


def test_a_wrapper_answers_for_its_base(net):
    linear = net.inner["q"]
    LoRA(targets=("q",)).attach(net)
    wrapped = net.inner["q"]
    assert wrapped.weight is linear.weight
    assert (wrapped.in_features, wrapped.out_features, wrapped.bias is linear.bias) == (6, 4, True)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = wrapped.no_such_thing


def test_a_copy_of_an_adapted_model_is_independent(net, x):
    y = net(x)
    LoRA(targets=("q",)).attach(net)
    stir(net)
    twin, adapted = copy.deepcopy(net), net(x)
    assert torch.equal(detach(twin)(x), y)
    assert torch.equal(net(x), adapted)


def test_the_summary_counts_against_the_base():
    model = Transformer(Config(vocab=60, context=24))
    LoRA(rank=1).attach(model)
    assert summary(model) == "trainable: 512 of 109,372 (0.47 %)"


def test_a_weight_without_a_module_of_its_own():
    net = nn.ModuleDict({"rnn": nn.LSTM(5, 7, batch_first=True)})
    x, before = torch.randn(2, 3, 5), list(net.state_dict().items())
    y = net["rnn"](x)[0]
    LoRA(rank=2, targets=("weight_ih_l0", "weight_hh_l0")).attach(net)
    assert torch.equal(net["rnn"](x)[0], y)
    stir(net)
    adapted = net["rnn"](x)[0]
    W = dict(before)["rnn.weight_ih_l0"]
    layer = net["rnn"].parametrizations["weight_ih_l0"][0]
    torch.testing.assert_close(net["rnn"].weight_ih_l0, W + 8 / 2 * layer.B @ layer.A)
    adapted.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in trainable(net).values())
    with disabled(net):
        assert torch.equal(net["rnn"](x)[0], y)
    torch.testing.assert_close(merge(net)["rnn"](x)[0], adapted)
    assert torch.equal(unmerge(net)["rnn"](x)[0], adapted)
    detach(net)
    assert type(net["rnn"]) is nn.LSTM
    assert torch.equal(net["rnn"](x)[0], y)
    assert {n for n, _ in before} == set(net.state_dict())


def test_full_fine_tuning_trains_a_copy_and_keeps_what_is_tied(x):
    model = Transformer(Config(vocab=9, dim=8, heads=2, ff=12, context=10))
    model.head = nn.Linear(8, 9, bias=False)
    model.head.weight = model.embed.token.weight
    before = model.embed.token.weight.detach().clone()
    Full().attach(model)
    assert model.head.weight is model.embed.token.weight
    assert len(trainable(model)) == len(list(model.parameters()))
    stir(model)
    assert torch.equal(detach(model).embed.token.weight, before)
    assert model.head.weight is model.embed.token.weight


def test_full_fine_tuning_of_some_targets(net):
    Full(targets=("q", "seq.bias")).attach(net)
    assert set(trainable(net)) == {"inner.q.weight", "inner.q.bias", "seq.bias"}


def test_a_recipe_is_data():
    assert LoRA(rank=4) == LoRA(rank=4) != LoRA(rank=8)
    assert str(LoRA()) == "LoRA(rank=4)"
    assert str(LoRA(rank=8, targets=("q",))) == "LoRA(rank=8, targets=('q',))"
    assert str(Full()) == "Full"
    assert eval(repr(LoRA(rank=2, alpha=3))) == LoRA(rank=2, alpha=3)


def test_buffers_come_back_and_do_not_change_the_base(tmp_path):
    net, x = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), torch.randn(8, 5)
    mark = fingerprint(net)
    for method in (LoRA(targets=("0",)), Full()):
        method.attach(net).train()
        net(x)
        moved = net[1].running_mean.clone()
        assert moved.any()
        with disabled(net):
            assert not net[1].running_mean.any()
        assert torch.equal(net[1].running_mean, moved)
        save(net, tmp_path / "d")
        assert fingerprint(detach(net)) == mark
        load(tmp_path / "d", net)
        detach(net)


@pytest.mark.parametrize(
    ("net", "module", "weight"),
    [
        (nn.MultiheadAttention(8, 2, batch_first=True), "out_proj", "out_proj.weight"),
        (nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), "linear1", "linear1.weight"),
    ],
    ids=["attention", "encoder"],
)
def test_a_module_that_would_be_passed_by_is_told_and_its_weight_works(net, module, weight):
    x = torch.randn(2, 3, 8)

    def run():
        with torch.no_grad():
            return net(x, x, x)[0] if module == "out_proj" else net(x)

    for mode in (True, False):
        net.train(mode)
        torch.manual_seed(0)
        y = run()
        with pytest.raises(TypeError, match=f"target the weight instead: '{weight}'"):
            LoRA(targets=(module,)).attach(net)
        LoRA(targets=(weight,)).attach(net)
        stir(net)
        torch.manual_seed(0)
        assert not torch.allclose(run(), y, atol=1e-2)
        detach(net)
        torch.manual_seed(0)
        assert torch.equal(run(), y)


def test_what_is_disabled_cannot_be_changed(net, x):
    LoRA(targets=("q",)).attach(net)
    stir(net)
    y = net(x)
    with disabled(net):
        for change in (detach, merge, LoRA(targets=("seq",)).attach):
            with pytest.raises(RuntimeError, match="disabled here"):
                change(net, stack=True) if change not in (detach, merge) else change(net)
    assert torch.equal(net(x), y)
    merge(net)
    with disabled(net), pytest.raises(RuntimeError, match="disabled here"):
        unmerge(net)
    assert torch.equal(unmerge(net)(x), y)


def test_two_methods_at_one_place_are_disabled_and_merged_together(net, x):
    y = net(x)
    for rank in (1, 2):
        LoRA(rank=rank, targets=("q", "seq")).attach(net, stack=True)
        stir(net)
    adapted = net(x)
    for change in (lambda net: net, merge, unmerge):
        change(net)
        with disabled(net):
            assert torch.equal(net(x), y)
            assert type(net.inner["q"]) is nn.Linear
        torch.testing.assert_close(net(x), adapted)


def test_a_method_reaches_below_the_wrapper_of_another(net, x):
    class Loud(Wrapper):
        def forward(self, x):
            return 2 * self.base(x)

    class Outer(Method):
        def insert(self, model):
            wrap(model, ("part",), lambda module, path: Loud(module))

    model = nn.ModuleDict({"part": nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))})
    y = model["part"](x)
    Outer().attach(model)
    LoRA(targets=("part.1",)).attach(model, stack=True)
    assert torch.equal(model["part"](x), 2 * y)
    stir(model)
    assert not torch.allclose(model["part"](x), 2 * y, atol=1e-2)
    assert len(trainable(model)) == 2
    assert torch.equal(detach(model)["part"](x), y)


def test_a_module_with_two_names_is_found_by_both(x):
    shared = nn.Linear(5, 5)
    net = nn.ModuleDict({"enc": shared, "dec": shared})
    LoRA(targets=("dec",)).attach(net)
    assert (type(net["enc"]), type(net["dec"])) == (nn.Linear, LoRALinear)
    assert detach(net)["dec"] is shared


def test_full_on_top_of_another_method_trains_the_base_below(net, x):
    y = net(x)
    LoRA(targets=("q",)).attach(net)
    Full().attach(net, stack=True)
    assert set(trainable(net)) == {
        "Attention.weight", "Attention.bias", "seq.weight", "seq.bias", "inner.q.base.weight", "inner.q.base.bias",
        "inner.explora_head.weight", "inner.explora_head.bias",
    }  # fmt: skip
    stir(net)
    assert torch.equal(detach(net)(x), y)


def test_what_was_aside_takes_on_the_mode(net, x):
    LoRA(targets=("q",), dropout=0.5).attach(net).train()
    stir(net)
    merge(net).eval()
    unmerge(net)
    assert torch.equal(net(x), net(x))  # no dropout
    with disabled(net):
        net.train()
    assert not torch.equal(net(x), net(x))


def test_a_weight_is_merged_into_a_plain_module():
    net, x = nn.ModuleDict({"rnn": nn.LSTM(5, 7)}), torch.randn(3, 2, 5)
    names = list(net.state_dict())
    LoRA(targets=("weight_ih_l0",)).attach(net)
    stir(net)
    y, whole = net["rnn"](x)[0], net["rnn"].weight_ih_l0.detach().clone()
    merge(net)
    assert type(net["rnn"]) is nn.LSTM
    assert set(net.state_dict()) == set(names)
    assert torch.equal(net.state_dict()["rnn.weight_ih_l0"], whole)
    assert torch.equal(net["rnn"](x)[0], y)


def test_a_recipe_cannot_change_after_it_was_attached(net):
    names, ranks = ["q", "seq"], {"q": 2}
    method = LoRA(targets=names, rank_pattern=ranks)
    method.attach(net)
    names.append("Attention")
    ranks["q"] = 9
    assert attachments(net)[0].method == LoRA(targets=("q", "seq"), rank_pattern={"q": 2})
    with pytest.raises(AttributeError):
        method.rank = 8


def test_a_rank_for_what_is_not_a_target_is_told(net):
    with pytest.raises(ValueError, match="rank_pattern names seq, which targets does not"):
        LoRA(targets=("q",), rank_pattern={"seq": 2}).attach(net)
