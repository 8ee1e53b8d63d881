"""Views: a method changes no model. On models that are not ours: widths differ, and names are traps."""

import copy

import pytest
import torch
from torch import nn

from minipeft.attach import Attachment, Method, Wrapper, attachments, detach, trainable
from minipeft.bases import base
from minipeft.methods import Full, LoRA, PrefixTuning, PromptTuning, QLoRA
from minipeft.methods.qlora import QuantizedLinear
from minipeft.models.transformer import Config, Transformer
from minipeft.targets import wrap
from minipeft.tasks import task
from minipeft.training import fit
from minipeft.views import layers_of, merge, move, summary
from tests.models import bits, close, make, rows, same_bits, stirred


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


class Loud(Wrapper):
    def forward(self, x):
        return 2 * self.base(x)


class Louder(Method):
    def insert(self, model):
        wrap(model, ("q",), lambda module, path: Loud(module))


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def x():
    return torch.randn(4, 5)


def test_a_view_is_new_modules_around_the_same_numbers(net, x):
    net.seq.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in net.named_parameters()}
    before, y, modules, mode = bits(net), net(x), list(net.modules()), net.training
    view = stirred(LoRA(targets=("q", "seq")), net.eval())
    assert not torch.allclose(view(x), y, atol=1e-3)
    assert same_bits(net, before)
    assert torch.equal(net(x), y)
    assert list(net.modules()) == modules
    assert {name: p.requires_grad for name, p in net.named_parameters()} == flags
    assert not set(view.modules()) & set(modules)
    assert [p.data_ptr() for p in view.parameters() if not p.requires_grad] == [p.data_ptr() for p in net.parameters()]
    assert view.training is False
    assert mode is True
    assert attachments(net) == []
    assert detach(view) is net
    assert detach(net) is net


def test_exactly_the_method_is_trainable(net):
    view = LoRA(targets=("q", "Attention")).attach(net)
    assert set(trainable(view)) == {"Attention.A", "Attention.B", "inner.q.A", "inner.q.B"}


def test_what_becomes_of_a_view_is_nothing_to_its_siblings(net, x):
    one, two = stirred(LoRA(targets=("q",)), net, 1), stirred(Full(), net, 2)
    y = two(x)
    with torch.no_grad():
        for p in trainable(one).values():
            p.fill_(9.0)
    one.train()
    assert torch.equal(two(x), y)
    assert all(p.grad is None for p in two.parameters())


@pytest.mark.parametrize("of_base", [True, False])
def test_training_a_base_with_views_on_it_is_seen_by_them(net, x, of_base):
    """They have the same numbers: a base that goes on training moves its views. That is what sharing means."""
    view = stirred(LoRA(targets=("q",)), net)
    y = view(x)
    optimizer = torch.optim.SGD((net if of_base else view).parameters(), lr=0.1)
    (net if of_base else view)(x).sum().backward()
    optimizer.step()
    assert torch.equal(view(x), y) is False
    assert all(p.data_ptr() == q.data_ptr() for p, q in attachments(view)[0].shared)


def test_methods_stack_and_come_off_one_by_one(net, x):
    before, y = bits(net), net(x)
    first = stirred(LoRA(rank=2, targets=("q",)), net, 1)
    y1 = first(x)
    second = LoRA(rank=3, targets=("q", "seq")).attach(first)
    close(second(x), y1)  # the second starts as the identity on top of the first
    assert set(trainable(second)) == {"inner.q.A", "inner.q.B", "seq.A", "seq.B"}
    assert trainable(second)["inner.q.A"].shape == (3, 6)  # the first, below, is frozen
    with torch.no_grad():
        for p in trainable(second).values():
            p.normal_()
    close(merge(second)(x), second(x))
    third = stirred(Full(targets=("Attention",)), second, 3)
    assert [str(a.method)[:12] for a in attachments(third)] == ["LoRA(rank=2,", "LoRA(rank=3,", "Full(targets"]
    close(merge(third)(x), third(x))
    assert [detach(third, n) for n in (0, 1, 2, 3)] == [third, second, first, net]
    assert detach(third) is net
    assert torch.equal(detach(third, 2)(x), y1)
    assert torch.equal(net(x), y)
    assert same_bits(net, before)
    assert len(trainable(first)) == 2, "the view below can be trained as before"
    for wrong in (4, -1):
        with pytest.raises(ValueError, match="there are 3 on the model"):
            detach(third, wrong)


def test_merged_is_plain_modules_with_the_same_outputs(net, x):
    names, y0 = list(net.state_dict()), net(x)
    view = stirred(LoRA(targets=("q", "seq")), net)
    plain = merge(view)
    assert {type(m) for m in plain.modules()} == {type(m) for m in net.modules()}
    assert list(plain.state_dict()) == names
    assert trainable(plain) == {}
    assert attachments(plain) == []
    close(plain(x), view(x))
    assert not torch.allclose(plain(x), y0, atol=1e-3)
    with pytest.raises(RuntimeError, match="nothing is attached"):
        merge(plain)
    with pytest.raises(ValueError, match="nothing to train"):
        fit(plain, task("reverse+blue"), steps=1, lr=1e-3)
    again = stirred(LoRA(targets=("seq",)), plain, 5)
    close(merge(again)(x), again(x))
    assert len(trainable(view)) == 4, "and the view is still there"


def test_a_merged_model_lives_on_without_view_and_base(net, x, tmp_path):
    view = stirred(Full(targets=("q", "seq.bias")), net)
    plain, y = merge(view), view(x).detach()
    with torch.no_grad():
        for p in trainable(view).values():
            p.zero_()
    assert torch.equal(plain(x), y)
    torch.save(plain, tmp_path / "whole.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert torch.equal(whole(x), y)
    assert (tmp_path / "whole.pt").stat().st_size < 4 * sum(p.numel() for p in net.parameters()) + 8000, "nothing else"
    fresh = Net()
    fresh.load_state_dict(plain.state_dict())
    assert torch.equal(fresh(x), y)


def test_merging_is_safe(net):
    view = LoRA(targets=("q", "seq")).attach(net)
    with torch.no_grad():
        trainable(view)["seq.B"][0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"the merged model has numbers that are not finite, in seq\.weight"):
        merge(view)


def test_merging_what_cannot_be_merged_is_told_and_changes_nothing(net, x):
    view = Louder().attach(stirred(LoRA(targets=("seq",)), net))
    y = view(x)
    with pytest.raises(TypeError, match="Loud cannot be merged"):
        merge(view)
    assert torch.equal(view(x), y)
    with pytest.raises(RuntimeError, match="nothing is attached"):
        merge(net)


def tied():
    model = Transformer(Config(vocab=9, dim=8, heads=2, ff=12, context=10)).eval()
    model.head = nn.Linear(8, 9, bias=False)
    model.head.weight = model.embed.token.weight
    return model


def test_weights_that_merging_unties_are_told():
    model, tokens = tied(), torch.randint(9, (1, 4))
    for targets in (("token",), ("token", "head"), ("head",)):
        view = stirred(LoRA(targets=targets), model)
        with pytest.warns(UserWarning, match=r"embed\.token\.weight and head\.weight were one weight and now differ"):
            plain = merge(view)
        close(plain(tokens), view(tokens))
    plain = merge(stirred(Full(), model))
    assert plain.head.weight is plain.embed.token.weight
    plain = merge(stirred(LoRA(targets=("q",)), model))
    assert plain.head.weight is plain.embed.token.weight


def test_full_fine_tuning_trains_a_copy_and_keeps_what_is_tied():
    model = tied()
    before = bits(model)
    view = Full().attach(model)
    assert view.head.weight is view.embed.token.weight
    assert len(trainable(view)) == len(list(model.parameters()))
    with torch.no_grad():
        for p in trainable(view).values():
            p.normal_()
    assert same_bits(model, before)
    assert model.head.weight is model.embed.token.weight


def test_full_on_top_of_another_method_trains_the_base_below(net, x):
    y = net(x)
    view = Full().attach(LoRA(targets=("q",)).attach(net))
    assert set(trainable(view)) == {
        "Attention.weight", "Attention.bias", "seq.weight", "seq.bias", "inner.q.base.weight", "inner.q.base.bias",
        "inner.explora_head.weight", "inner.explora_head.bias",
    }  # fmt: skip
    with torch.no_grad():
        for p in trainable(view).values():
            p.normal_()
    assert torch.equal(net(x), y)


def test_a_method_reaches_below_the_wrapper_of_another(x):
    class Outer(Method):
        def insert(self, model):
            wrap(model, ("part",), lambda module, path: Loud(module), nn.Module)

    model = nn.ModuleDict({"part": nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))})
    y = model["part"](x)
    view = LoRA(targets=("part.1",)).attach(Outer().attach(model))
    assert torch.equal(view["part"](x), 2 * y)
    assert len(trainable(view)) == 2
    with torch.no_grad():
        for p in trainable(view).values():
            p.normal_()
    assert not torch.allclose(view["part"](x), 2 * y, atol=1e-2)
    assert torch.equal(model["part"](x), y)


def test_a_wrapper_answers_for_its_base_and_its_weight_is_the_changed_one(net):
    view = stirred(LoRA(targets=("q",)), net)
    wrapped, linear = view.inner["q"], net.inner["q"]
    assert (wrapped.in_features, wrapped.out_features) == (6, 4)
    assert torch.equal(wrapped.weight, linear.weight + wrapped.delta())
    assert torch.equal(wrapped.bias, linear.bias)
    assert wrapped.base.weight.data_ptr() == linear.weight.data_ptr()
    above = stirred(LoRA(targets=("q",)), view, 2).inner["q"]
    close(above.weight, linear.weight + wrapped.delta() + above.delta())
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = wrapped.no_such_thing


def test_what_reads_the_weight_of_a_layer_instead_of_calling_it_is_adapted_too():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Embedding(11, 6), nn.Linear(6, 6)

        def forward(self, i):  # a fused kernel, and a head that is tied by hand
            h = nn.functional.linear(torch.tanh(self.embed(i)), self.mix.weight, self.mix.bias)
            return h @ self.embed.weight.T

    net, i = nn.Sequential(Mixer()), torch.arange(11)
    for target in ("mix", "embed"):
        view = stirred(LoRA(rank=2, targets=(target,)), net)
        view(i).square().sum().backward()
        assert all(p.grad.any() for p in trainable(view).values()), target
        assert (view(i) - net(i)).abs().max() > 0.1
        close(merge(view)(i), view(i))


@pytest.mark.parametrize(("net", "module"), [
    (nn.MultiheadAttention(8, 2, batch_first=True), "out_proj"),
    (nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0), "linear1"),
])  # fmt: skip
@pytest.mark.parametrize("mode", [True, False])
def test_torchs_own_attention_reads_weights_too(net, module, mode):
    x = torch.randn(2, 3, 8)
    for p in net.parameters():  # the same numbers in every run
        nn.init.normal_(p, std=0.4)

    def run(net):
        return net(x, x, x)[0] if module == "out_proj" else net(x)

    net.train(mode)
    for targets in ((module,), (f"{module}.weight",)):
        view = stirred(LoRA(targets=targets), net)
        assert (run(view) - run(net)).abs().max() > 1e-2
        close(run(merge(view)), run(view))
        with torch.no_grad():  # where torch may take its fast path
            close(run(view), run(merge(view)))


@pytest.mark.parametrize(("make", "targets"), [
    (lambda: nn.LSTM(5, 7, batch_first=True), ("weight_ih_l0", "weight_hh_l0")),
    (lambda: nn.GRU(5, 7, 2, batch_first=True), ("weight_hh_l1",)),
    (lambda: nn.Conv1d(3, 4, 2), ("m.weight",)),
])  # fmt: skip
def test_a_weight_without_a_module_of_its_own(make, targets):
    net, x = nn.ModuleDict({"m": make()}), torch.randn(2, 3, 5)

    def run(net, x):
        y = net["m"](x)
        return y[0] if isinstance(y, tuple) else y

    y, names = run(net, x), list(net.state_dict())
    view = LoRA(rank=2, targets=targets).attach(net)
    close(run(view, x), y)
    with torch.no_grad():
        for p in trainable(view).values():
            p.normal_()
    adapted = run(view, x)
    adapted.sum().backward()
    assert all(p.grad.any() for p in trainable(view).values())
    for name, layer in layers_of(view):
        W = net.get_parameter(name)
        assert torch.equal(getattr(view["m"], name.split(".")[1]), W + layer.delta())
    copies = [copy.deepcopy(view), merge(view)]
    with torch.no_grad():
        assert (adapted - y).abs().max() > 1e-2
        for one in copies:
            close(run(one, x), adapted)
        for p in trainable(copies[0]).values():
            p.zero_()
    close(run(view, x), adapted)
    assert torch.equal(run(net, x), y)
    assert list(net.state_dict()) == list(copies[1].state_dict()) == names
    stacked = stirred(LoRA(rank=1, targets=targets), view, 4)
    close(run(merge(stacked), x), run(stacked, x))


def test_buffers_are_a_views_own(tmp_path):
    net, x = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), torch.randn(8, 5)
    before = bits(net)
    for method in (LoRA(targets=("0",)), Full()):
        view = method.attach(net).train()
        view(x)
        assert view[1].running_mean.any()
        assert same_bits(net, before)
        assert detach(view)[1].running_mean.any() == False  # noqa: E712
        assert torch.equal(merge(view)[1].running_mean, view[1].running_mean)


class Rope(nn.Module):
    """A buffer that grows while the model is used, and one that is None at times."""

    def __init__(self):
        super().__init__()
        self.q = nn.Linear(6, 6)
        self.grow(4)
        self.register_buffer("cache", None, persistent=False)

    def grow(self, n):
        self.register_buffer("cos", torch.cos(torch.arange(n)[:, None] / 9.0), persistent=False)

    def forward(self, x):
        if x.shape[1] > len(self.cos):
            self.grow(2 * x.shape[1])
        y = self.q(x) * self.cos[: x.shape[1]]
        self.cache = y if self.cache is None else torch.cat([self.cache, y], 1)
        return y


def test_buffers_that_grow_or_are_replaced_break_nothing():
    net = Rope()
    net(torch.randn(1, 3, 6))  # somebody has used it, with gradients
    view = stirred(LoRA(rank=2, targets=("q",)), net)
    for length in (3, 9, 20):
        x = torch.randn(1, length, 6)
        close(merge(view)(x), view(x))
    view.cache = None
    assert summary(view) == "trainable: 24 of 42 (57.14 %)"
    assert len(net.cos) == 4
    assert detach(view) is net
    close(copy.deepcopy(view)(x), view(x))


def test_twenty_views_of_a_larger_model_add_little():
    model = Transformer(Config(vocab=500, dim=128, layers=4, heads=4, ff=512, context=64))
    views = [LoRA().attach(model) for _ in range(20)]
    views += [QLoRA(rank=2).attach(model)]
    views += [LoRA().attach(views[-1]) for _ in range(3)]  # quantized weights are shared too
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for v in [model, *views] for t in v.parameters()
    }
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    quantized = sum(p.numel() * p.element_size() for m in views[20].modules() if isinstance(m, QuantizedLinear)
                    for name, p in m.named_parameters() if name != "bias")  # fmt: skip
    learned = sum(p.numel() * p.element_size() for v in views for p in trainable(v).values())
    assert sum(held.values()) == whole + quantized + learned


def test_moving_a_stack_moves_all_of_it_once():
    model = make()
    view = PrefixTuning(length=3).attach(stirred(LoRA(), model))
    sibling = LoRA().attach(model)
    move(view, torch.float64)
    for entry in attachments(view):
        assert all(mine.data_ptr() == theirs.data_ptr() for mine, theirs in entry.shared)
    assert {p.dtype for p in [*view.parameters(), *model.parameters()]} == {torch.float64}
    assert {p.dtype for p in sibling.parameters()} == {torch.float32}, "a sibling keeps its numbers until it is moved"
    move(sibling, torch.float64)
    assert all(mine.data_ptr() == theirs.data_ptr() for mine, theirs in attachments(sibling)[0].shared)


def test_prompts_prefixes_and_lora_stack_in_any_order():
    methods = [LoRA(rank=2, targets=("q", "k", "v")), PromptTuning(length=2), PrefixTuning(length=3)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]):
        for bos in (None, 1):
            view = make(bos).double()
            for i in order:
                view = stirred(methods[i], view, i)
            alone, tokens, mask = rows("left")
            y = view(tokens, mask)
            for i, row in enumerate(alone):
                close(y[i][mask[i]], view(row[None])[0])
            assert torch.equal(view.generate(tokens, 6, mask), view.generate(tokens, 6, mask, cache=False))


def test_a_prefix_of_words_on_a_prefix_of_words_is_having_read_both():
    model, tokens = make().double(), rows()[1]
    words = torch.tensor([5, 9, 14, 3, 8])
    told = model(torch.cat([words.expand(3, -1), tokens], 1))[:, 5:]
    first = PrefixTuning(length=3, init=(5, 9, 14)).attach(model)
    close(PrefixTuning(length=2, init=(3, 8)).attach(first)(tokens), told)
    close(PromptTuning(length=2, init=(3, 8)).attach(first)(tokens), told)


def test_the_summary_counts_against_the_base():
    view = LoRA(rank=1).attach(Transformer(Config(vocab=60, context=24)))
    assert summary(view) == "trainable: 512 of 109,372 (0.47 %)"
    assert summary(LoRA(rank=1).attach(view)) == "trainable: 512 of 109,372 (0.47 %)"


def test_a_method_is_data(net):
    assert LoRA(rank=4) == LoRA(rank=4) != LoRA(rank=8)
    assert str(LoRA()) == "LoRA(rank=4)"
    assert str(LoRA(rank=8, targets=("q",))) == "LoRA(rank=8, targets=('q',))"
    assert str(Full()) == "Full"
    assert eval(repr(LoRA(rank=2, alpha=3))) == LoRA(rank=2, alpha=3)
    names, ranks = ["q", "seq"], {"q": 2}
    method = LoRA(targets=names, rank_pattern=ranks)
    view = method.attach(net)
    names.append("Attention")
    ranks["q"] = 9
    assert attachments(view)[0].method == LoRA(targets=("q", "seq"), rank_pattern={"q": 2})
    with pytest.raises(AttributeError):
        method.rank = 8


def test_a_model_may_use_our_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 7)
            self.attachment, self.base, self.attachments = nn.Linear(1, 2), nn.Linear(7, 7), nn.ModuleList()

        def forward(self, x):
            return self.base(self.fc(x))

    net, x = Named(), torch.randn(3, 5)
    view = stirred(LoRA(rank=2, targets=("fc", "base")), net)
    close(merge(view)(x), view(x))
    assert isinstance(attachments(view)[0], Attachment)
    assert set(trainable(view)) == {"fc.A", "fc.B", "base.A", "base.B"}


def test_fit_moves_a_view_and_its_base_together_and_trains_only_the_view():
    model = base()
    before = bits(model)
    view = LoRA().attach(model)
    fit(view, task("reverse+blue"), steps=2, lr=1e-2, device="cpu", progress=False)
    assert same_bits(model, before)
    assert all(mine.data_ptr() == theirs.data_ptr() for mine, theirs in attachments(view)[0].shared)
