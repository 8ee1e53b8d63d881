"""Where a method's layers go, and what is refused because a layer beside a module could not be right."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from minipeft.attach import attachments, detach, trainable
from minipeft.bases import base
from minipeft.deltas import load, save, trained
from minipeft.methods import (
    IA3,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
    VeRA,
)
from minipeft.methods.lora import LoRALinear
from minipeft.models.transformer import Config, Transformer
from minipeft.models.vision import VisionConfig, ViT
from minipeft.targets import match, sites
from minipeft.views import layers_of, merge, summary
from tests.models import LAYERS, VOCAB, close, make, one, stirred
from tests.test_attach import Net

LINEAR = [  # all that go in front of Linear modules, on one that is called "fc"
    LoRA(rank=2, targets=("fc",)), AdaLoRA(rank=1, initial_rank=2, targets=("fc",)), QLoRA(rank=2, targets=("fc",)),
    DoRA(rank=2, targets=("fc",)), VeRA(rank=4, targets=("fc",)), PiSSA(rank=2, targets=("fc",)),
    IA3(outputs=("fc",), inputs=()), IA3(outputs=(), inputs=("fc",)),
]  # fmt: skip
EACH = pytest.mark.parametrize("method", LINEAR, ids=str)


def paths(model, targets, layers=None):
    return [path for path, *_ in match(model, targets, layers)]


# ---- names ------------------------------------------------------------------------------------------------------


def test_targets_are_suffixes_of_dotted_names():
    net = Net()
    assert paths(net, ("q",)) == paths(net, (".inner.q",)) == ["inner.q"]  # not seq
    with pytest.raises(ValueError, match=r"'\.q'"):
        paths(net, (".q",))  # a whole name
    assert sorted(paths(net, ("inner.q", "q", "weight"))) == [
        "Attention.weight", "inner.explora_head.weight", "inner.q", "inner.q.weight", "seq.weight"
    ]  # fmt: skip
    large = paths(net, lambda name, module: isinstance(module, nn.Linear) and module.out_features > 5)
    assert large == ["Attention", "seq"]


SIX = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
WAYS = [
    (("q", "mlp.up"), [f"blocks.{i}.{name}" for i in range(LAYERS) for name in ("attn.q", "mlp.up")]),
    (("1.attn.q", ".blocks.0.mlp.up"), ["blocks.0.mlp.up", "blocks.1.attn.q"]),
    ("all-linear", [f"blocks.{i}.{name}" for i in range(LAYERS) for name in SIX]),
    (r"blocks\.[02]\.attn\.(q|v)", [f"blocks.{i}.attn.{name}" for i in (0, 2) for name in "qv"]),
    (r"head|.*\.up", [*(f"blocks.{i}.mlp.up" for i in range(LAYERS)), "head"]),
    (lambda path, module: isinstance(module, nn.Linear) and module.out_features == VOCAB, ["head"]),
]


@pytest.mark.parametrize("method", [LoRA, AdaLoRA, QLoRA, DoRA, VeRA, PiSSA, Full, BitFit])
@pytest.mark.parametrize(("targets", "places"), WAYS)
def test_every_method_with_targets_is_told_its_places_in_these_ways(method, targets, places):
    view = method(targets=targets).attach(make())
    letters = {Full: [".weight", ".bias"], BitFit: [".bias"]}.get(method, [""])
    assert [path for path, _ in layers_of(view)] == [path + letter for path in places for letter in letters]
    assert paths(view, targets) == paths(make(), targets) == places, "a method that is there already hides nothing"


def test_a_text_that_matches_nothing_may_have_been_meant_as_a_name():
    with pytest.raises(ValueError, match=r"named 'q' \(a text is a regular expression for whole names; .*\('q',\)"):
        paths(make(), "q")


@pytest.mark.parametrize("method", [
    LoRA(layers=(0, 2)), AdaLoRA(layers=(0, 2)), QLoRA(layers=(0, 2)), DoRA(layers=(0, 2)), VeRA(layers=(0, 2)),
    PiSSA(layers=(0, 2)), IA3(layers=(0, 2)),
], ids=str)  # fmt: skip
def test_layer_indices_choose_among_the_targets(method, tmp_path):
    view = method.attach(make())
    assert {path.split(".")[1] for path, _ in layers_of(view)} == {"0", "2"}
    save(view, tmp_path / "d")
    assert attachments(load(tmp_path / "d", make()))[0].method == method
    with pytest.raises(ValueError, match="no target lies in layer 3; they lie in 0, 1, 2"):
        type(method)(layers=(1, 3)).attach(make())


def test_the_more_specific_name_wins_in_rank_pattern():
    ranks = {"q": 2, "blocks.0.attn.q": 5, "attn.q": 3, ".blocks.1.attn.q": 6}
    view = LoRA(rank=1, targets=("q", "v"), rank_pattern=ranks).attach(make())
    assert [len(layer.A) for path, layer in layers_of(view) if path.endswith("q")] == [5, 6, 3]
    assert {len(layer.A) for path, layer in layers_of(view) if path.endswith("v")} == {1}
    view = LoRA(rank=1, targets=("q", "v"), layers=(0,), rank_pattern={"q": 3}).attach(make())
    assert [len(layer.A) for _, layer in layers_of(view)] == [3, 1]
    with pytest.raises(ValueError, match=r"rank_pattern names inner\.q, which targets does not"):
        LoRA(targets=("seq",), rank_pattern={"q": 2}).attach(Net())


def test_a_predicate_is_kept_as_the_names_it_chose():
    view = LoRA(targets=lambda name, module: name.endswith("q")).attach(Net())
    assert attachments(view)[0].method == LoRA(targets=(".seq", ".inner.q"))


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        (LoRA(targets=("q", "missing")), ValueError, r"'missing'.*seq \(Linear\)"),
        (LoRA(targets=("Attention", "inner")), TypeError, "'inner' is a ModuleDict: leave it out of targets"),
        (LoRA(targets="q"), ValueError, "regular expression"),
        (LoRA(targets="("), ValueError, r"targets='\(' is no regular expression"),
        (LoRA(targets=()), ValueError, "empty"),
        (LoRA(targets=("q",), rank_pattern={"k": 2}), ValueError, "'k'"),
        (LoRA(targets=("q",), layers=(0,)), ValueError, "no target lies in layer 0"),
        (LoRA(targets=lambda name, module: False), ValueError, "lambda"),
        (Full(targets=("nothing",)), ValueError, "'nothing'"),
        (VeRA(targets=("q.weight",)), TypeError, "VeRA goes in front of Linear; 'inner.q.weight' is a Parameter"),
        (Houlsby(), ValueError, "'attn'"),
        (LoRA(targets=("conv",)), TypeError, "leave it out of targets, or name its weight, 'conv.weight'"),
        (DoRA(targets=("conv",)), TypeError, "'conv' is a Conv1d: leave it out of targets$"),
    ],
)
def test_a_method_that_does_not_fit_is_told(method, error, says):
    net = Net()
    net.conv = nn.Conv1d(2, 3, 1)
    with pytest.raises(error, match=says):
        method.attach(net)


@pytest.mark.parametrize("method", [PromptTuning(), PTuning(), PrefixTuning(), PTuningV2()], ids=str)
def test_what_stands_before_tokens_needs_a_model_with_a_beginning(method):
    with pytest.raises(TypeError, match=f"{type(method).__name__} stands before the tokens.*Net lacks them"):
        method.attach(Net())


IN_FRONT = [
    PromptTuning(), PTuning(width=5), PrefixTuning(), PrefixTuning(mlp=5), PTuningV2(), PTuningV2(form="key/value")
]  # fmt: skip


@pytest.mark.parametrize("method", IN_FRONT, ids=str)
def test_each_of_several_sequences_gets_what_it_would_get_alone(method):
    """As wide and as deep as its part of the model, and in numbers of its own."""
    parts = {"narrow": make(None), "wide": Transformer(Config(VOCAB, 16, layers=2, heads=2, ff=8))}
    view = replace(method, places=("narrow", "wide")).attach(nn.ModuleDict(parts))
    alone = {f"{where}.{name}": p.shape for where, part in parts.items()
             for name, p in trainable(method.attach(part)).items()}  # fmt: skip
    assert {name: p.shape for name, p in trainable(view).items()} == alone
    assert list(attachments(view)[0].layers) == ["narrow.begin", "wide.begin"]
    twins = replace(method, places=("0", "1")).attach(nn.ModuleList([make(None), make(None)]))
    first, other = ([p for name, p in trainable(twins).items() if name.startswith(i)] for i in "01")
    assert not any(torch.equal(p, q) for p, q in zip(first, other, strict=True) if p.ndim > 1)


@pytest.mark.parametrize("method", [PromptTuning(length=500), PTuningV2(length=500)], ids=str)
def test_each_of_several_sequences_gets_prompts_at_its_own_scale(method):
    parts = nn.ModuleDict({"small": make(None), "large": make(None)})
    with torch.no_grad():
        parts["large"].embed.token.weight.mul_(20)
    view = replace(method, places=("small", "large")).attach(parts)
    for part in view.values():
        assert part.begin.P.std().item() == pytest.approx(part.embed.token.weight.std().item(), rel=0.05)


def test_a_sequence_inside_of_another_gets_its_layer_once():
    outer = make(None)
    outer.inner = make(None)
    view = PTuningV2(length=2, places=("begin", "inner")).attach(outer)
    assert list(attachments(view)[0].layers) == ["begin", "inner.begin"]
    assert set(trainable(view)) == {"begin.P", "inner.begin.P"}


def test_words_are_those_of_an_embedding_that_a_method_has_changed():
    lower = stirred(LoRA(rank=2, targets=("token",)), make())
    view = PromptTuning(length=2, init=(7, 3)).attach(lower)
    assert torch.equal(view.begin.P, lower.embed.token.weight[[7, 3]])


@pytest.mark.parametrize("method", [
    PromptTuning(init="vocabulary"), PromptTuning(init=(1, 2)), PTuning(length=1, template=(-1, 2)),
    PrefixTuning(init=(1, 2)),
], ids=str)  # fmt: skip
def test_a_start_from_tokens_needs_a_part_that_reads_tokens(method):
    with pytest.raises(TypeError, match=r"starts from tokens, but 'ViT' does not read tokens on its own"):
        method.attach(ViT(VisionConfig(6, 2, 3, dim=12, heads=3)))


@EACH
@pytest.mark.parametrize(
    "module", [nn.LayerNorm(3), nn.Conv1d(3, 3, 1), nn.Bilinear(2, 3, 3)], ids=lambda module: type(module).__name__
)
def test_a_module_of_another_kind_is_refused(method, module):
    ours, kind = type(method).__name__, type(module).__name__
    with pytest.raises(TypeError, match=rf"{ours} goes in front of Linear.*; 'fc' is an? {kind}: leave it out"):
        method.attach(nn.ModuleDict({"fc": module}))


@pytest.mark.parametrize("method", [Houlsby(), Pfeiffer(), ParallelAdapter(), AdapterFusion()], ids=str)
def test_adapters_need_transformer_blocks(method):
    with pytest.raises(ValueError, match=r"there are: layer \(Linear\)"):
        method.attach(one(nn.Linear(3, 3)))
    with pytest.raises(TypeError, match=r"'layer\.(attn|mlp)' is in a ModuleDict"):
        method.attach(one(nn.ModuleDict({"attn": nn.Linear(3, 3), "mlp": nn.Linear(3, 3)})))


# ---- one module under several names -----------------------------------------------------------------------------


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        return torch.tanh(self.fc(x))


class Shared(nn.Module):
    """The layers of a decoder under a second path (YOCO), or one block as several layers (ALBERT)."""

    def __init__(self, one_block):
        super().__init__()
        self.blocks = nn.ModuleList([Layer()] * 6 if one_block else [Layer(), Layer()])
        if not one_block:
            self.decoder = nn.ModuleDict({"layers": self.blocks})

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("one_block", [True, False])
@pytest.mark.parametrize("method", [*LINEAR, Full(), BitFit()], ids=str)
def test_a_module_under_several_names_gets_one_layer_under_all_of_them(method, one_block, tmp_path):
    net, x = Shared(one_block), torch.randn(3, 6)
    view = stirred(method, net)
    places = {id(block.fc) for block in view.blocks}
    assert len(places) == len({id(block) for block in net.blocks})
    assert one_block or view.decoder["layers"][0].fc is view.blocks[0].fc
    live = {id(p) for p in view.parameters()}
    assert all(id(t) in live for t in trained(view).values())
    assert len(attachments(view)[0].layers) == len(places) * (2 if isinstance(method, Full) else 1)
    y = view(x)
    assert (y - net(x)).abs().max() > 1e-3
    save(view, tmp_path / "d")
    close(load(tmp_path / "d", net)(x), y)
    close(merge(view)(x), y)


def test_all_linear_leaves_out_the_heads_of_other_libraries():
    theirs = nn.ModuleDict({"layers": Layer(), "lm_head": nn.Linear(6, 9), "score": nn.Linear(6, 2)})
    assert paths(theirs, "all-linear") == ["layers.fc"]


def test_either_name_finds_it():
    shared = nn.Linear(5, 5)
    net = nn.ModuleDict({"enc": shared, "dec": shared})
    for name in ("enc", "dec"):
        view = LoRA(targets=(name,)).attach(net)
        assert view["enc"] is view["dec"]
        assert type(view["dec"]) is LoRALinear
    assert paths(net, ("enc", "dec")) == ["enc"]
    assert [path for path, *_ in sites(net)] == ["enc", "enc.weight", "enc.bias"]


def test_a_weight_of_the_model_itself_is_told():
    with pytest.raises(TypeError, match="'weight' is a weight of the model itself: put the model into another"):
        LoRA(targets=("weight",)).attach(nn.Linear(3, 4))
    for method in (Full(), BitFit()):
        assert trainable(method.attach(nn.Linear(3, 4)))


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("wrapped", [torch.compile, nn.DataParallel])
def test_names_do_not_know_of_compile_and_data_parallel(wrapped, tmp_path):
    tokens = torch.randint(2, 20, (2, 6))
    view = stirred(LoRA(), make())
    outside = wrapped(view, backend="eager") if wrapped is torch.compile else wrapped(view)
    save(outside, tmp_path / "d")
    close(load(tmp_path / "d", make())(tokens), view(tokens))
    close(merge(outside)(tokens), view(tokens))
    assert detach(outside) is detach(view)
    assert summary(outside) == summary(view)
    again = LoRA().attach(wrapped(make()))
    assert set(trainable(again)) == set(trainable(view))
    close(load(tmp_path / "d", wrapped(make()))(tokens), view(tokens))


# ---- a layer's class does not tell what it computes --------------------------------------------------------------


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 8.0


class Cosine(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, nn.functional.normalize(self.weight, dim=1), self.bias)


class ScaledEmbedding(nn.Embedding):
    def forward(self, i):
        return super().forward(i) * 8.0


class Same(nn.Conv2d):  # it pads by itself
    def forward(self, x):
        return self._conv_forward(nn.functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


def hooked():
    layer = nn.Linear(5, 7)
    layer.register_forward_hook(lambda module, args, out: out.clamp(min=0))
    return layer


def hooked_before():
    layer = nn.Linear(5, 7)
    layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return layer


def weight_normed():
    return parametrizations.weight_norm(nn.Linear(5, 7))


def spectral_normed():
    return parametrizations.spectral_norm(nn.Linear(5, 7)).eval()


def pruned():
    layer = nn.Linear(5, 7)
    prune.random_unstructured(layer, "weight", amount=0.5)
    return layer


ODD = {
    "a scaled Linear": lambda: Scaled(5, 7), "a cosine Linear": lambda: Cosine(5, 7), "hooked": hooked,
    "hooked before": hooked_before, "weight-normed": weight_normed, "spectral-normed": spectral_normed,
    "pruned": pruned,
}  # fmt: skip
WEIGHT = {"weight-normed": "original1", "spectral-normed": "weight.original", "pruned": "weight_orig"}


@EACH
@pytest.mark.parametrize("odd", ODD)
def test_a_layer_that_makes_something_of_its_own_of_its_weight_is_refused(method, odd):
    net = nn.ModuleDict({"fc": ODD[odd]()})
    with pytest.raises(TypeError, match=r"'fc', a .*makes something of its own of its weight.*name the weight itself"):
        method.attach(net)


@pytest.mark.parametrize("odd", ODD)
def test_and_its_weight_itself_can_be_adapted(odd):
    net, x = nn.ModuleDict({"fc": ODD[odd]()}), torch.randn(3, 5)
    view = stirred(LoRA(rank=2, targets=(WEIGHT.get(odd, "fc.weight"),)), net)
    y = view["fc"](x)
    assert (y - net["fc"](x)).abs().max() > 1e-2
    close(merge(view)["fc"](x), y)
    y.square().sum().backward()
    assert all(p.grad.any() for p in trainable(view).values())


def test_odd_embeddings_and_convolutions_too():
    i, x = torch.arange(9), torch.randn(1, 3, 8, 8)
    for layer, data in (
        (ScaledEmbedding(9, 4), i),
        (nn.Embedding(9, 4, max_norm=1.0), i),
        (Same(3, 4, 3, stride=2), x),
    ):
        net = nn.ModuleDict({"m": layer})
        with pytest.raises(TypeError, match=r"name the weight itself in targets: m\.weight"):
            LoRA(rank=2, targets=("m",)).attach(net)
        view = stirred(LoRA(rank=2, targets=("m.weight",)), net)
        y = view["m"](data)
        close(merge(view)["m"](data), y)
        assert (y - net["m"](data)).abs().max() > 1e-2


def test_a_forward_that_was_replaced_by_a_function_is_refused():
    net = nn.ModuleDict({"fc": nn.Linear(5, 7), "other": nn.Linear(5, 7)})
    old = net["fc"].forward
    net["fc"].forward = lambda *args: 2 * old(*args)  # as accelerate and others do
    for method in (LoRA(targets=("fc",)), LoRA(targets=("other",)), Full()):
        with pytest.raises(TypeError, match="the forward of 'fc' was replaced by a function"):
            method.attach(net)


def test_a_hook_elsewhere_keeps_working_in_the_view():
    net, seen = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)), []
    net.register_forward_hook(lambda module, args, out: seen.append(module))
    view = LoRA(targets=("1",)).attach(net)
    view(torch.randn(2, 5))
    assert seen == [view]


# ---- numbers in which nothing can be trained ---------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_numbers_that_cannot_be_trained_are_told(method, kind):
    net = nn.ModuleDict({"fc": nn.Linear(5, 7)})
    net["fc"].weight = nn.Parameter(net["fc"].weight.detach().to(kind), requires_grad=False)
    with pytest.raises(TypeError, match=f"'fc' holds {kind}, in which {type(method).__name__} cannot train: convert"):
        method.attach(net)


def test_what_is_not_adapted_may_hold_any_numbers(tmp_path):
    net = nn.ModuleDict({"fc": nn.Linear(5, 7), "codes": nn.Embedding(4, 3)})
    net["codes"].weight = nn.Parameter(torch.randint(-100, 100, (4, 3), dtype=torch.int8), requires_grad=False)
    view, x = stirred(LoRA(targets=("fc",)), net), torch.randn(2, 5)
    save(view, tmp_path / "d")
    close(load(tmp_path / "d", net)["fc"](x), view["fc"](x))
    close(merge(view)["fc"](x), view["fc"](x))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", [PiSSA(rank=2), DoRA(rank=2), LoRA(rank=2), VeRA(rank=4)], ids=str)
def test_bases_in_other_precision_start_as_themselves_and_merge(method, kind):
    model, tokens = base().to(kind), torch.randint(4, 20, (2, 6))
    view = method.attach(model)
    close(view(tokens).float(), model(tokens).float(), 0.3 if kind != torch.float64 else 1e-6)
    assert {p.dtype for p in trainable(view).values()} == {kind}
    assert {p.dtype for p in merge(view).parameters()} == {kind}


def test_full_fine_tuning_does_not_train_codes():
    net = nn.ModuleDict({"fc": nn.Linear(5, 7), "codes": nn.Embedding(4, 3)})
    net["codes"].weight = nn.Parameter(torch.ones(4, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match=r"'codes\.weight' holds torch\.int8, in which Full cannot train"):
        Full().attach(net)
    assert set(trainable(Full(targets=("fc",)).attach(net))) == {"fc.weight", "fc.bias"}
