"""Where methods go: every way of naming places, for every method that is given names, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from minipeft.attach import attachments
from minipeft.methods import IA3, METHODS, AdaLoRA, BitFit, DoRA, Full, LoRA, PiSSA, QLoRA, VeRA
from tests.models import LAYERS, VOCAB, make, one, rows

LINEAR = AdaLoRA, DoRA, PiSSA, QLoRA, VeRA  # go in front of nothing else
NAMED = LoRA, *LINEAR
SIX = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
EVERYWHERE = {f"blocks.{i}.{name}" for i in range(LAYERS) for name in SIX}


def ending(*names):
    return {path for path in EVERYWHERE if path.endswith(names)}


WAYS = [
    (("q", "up"), ending(".q", ".up")),
    (("attn.q", "attn.q", "q"), ending(".q")),
    ((".blocks.1.attn.q",), {"blocks.1.attn.q"}),
    (("1.attn.q", ".blocks.0.mlp.up"), {"blocks.1.attn.q", "blocks.0.mlp.up"}),
    ("all-linear", EVERYWHERE),
    (r"blocks\.\d\.attn\.[qk]", ending(".q", ".k")),
    (r"head|.*\.0\..*\.o", {"head", "blocks.0.attn.o"}),
    (lambda path, module: isinstance(module, nn.Linear) and module.out_features == VOCAB, {"head"}),
]


def places(view):
    return set(attachments(view)[-1].layers)


@pytest.mark.parametrize("method", NAMED)
@pytest.mark.parametrize(("targets", "there"), WAYS)
def test_places_are_named_in_one_of_these_ways(method, targets, there):
    view = method(targets=targets).attach(make())
    assert places(view) == there
    kept = attachments(view)[0].method
    assert kept == method(targets=tuple("." + p for p in places(view)) if callable(targets) else targets)
    if callable(targets):
        assert places(kept.attach(make())) == there


@pytest.mark.parametrize("method", [Full, BitFit])
def test_what_lies_below_a_place_is_trained_there(method):
    letters = ("weight", "bias") if method is Full else ("bias",)
    for targets, there in [*WAYS, (("1.attn", "head.bias"), {f"blocks.1.attn.{x}" for x in "qkvo"} | {"head"})]:
        wanted = {f"{path}.{letter}" for path in there for letter in letters} - {"head.weight"}
        assert places(method(targets=targets).attach(make())) - {"head.weight"} == wanted


@pytest.mark.parametrize("method", [*NAMED, IA3])
def test_layers_are_chosen_by_their_indices(method):
    default = places(method().attach(make()))
    for layers in ((0, 2), [1], {2, 0}):
        view = method(layers=layers).attach(make())
        assert places(view) == {path for path in default if int(path.split(".")[1]) in layers}
        assert attachments(view)[0].method.layers == tuple(sorted(layers))
    for layers in ((0, 5), range(3, 6)):
        with pytest.raises(ValueError, match=r"no target lies in layer [53]; they lie in 0, 1, 2"):
            method(layers=layers).attach(make())
    with pytest.raises(ValueError, match=f"{method.__name__}: layers must be a tuple of whole numbers .* got -1"):
        method(layers=-1)


@pytest.mark.parametrize("method", NAMED)
def test_targets_without_a_layer_lie_in_none(method):
    with pytest.raises(ValueError, match="no target lies in layer 0; they lie in "):
        method(targets=("head",), layers=(0,)).attach(make())
    assert places(method(targets=("head", "q"), layers=(1,)).attach(make())) == {"blocks.1.attn.q"}


@pytest.mark.parametrize("method", [*NAMED, Full, BitFit])
@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (("q", "wand"), r"no module or weight is named 'wand'; there are: .* q \(Linear\), bias \(Parameter\)"),
        ((".q",), "named '.q'; there are"),
        ("attn.q", r"named 'attn\.q' \(a text is a regular expression .* write \('attn.q',\)\); there are"),
        ((), "the empty targets"),
        (lambda path, module: False, "named '<lambda>'"),
    ],
)
def test_names_of_nothing_are_told(method, targets, says):
    with pytest.raises(ValueError, match=says):
        method(targets=targets).attach(make())


@pytest.mark.parametrize("method", LINEAR)
@pytest.mark.parametrize(("name", "kind"), [("token", "Embedding"), ("norm1", "LayerNorm"), ("q.weight", "Parameter")])
def test_what_is_no_linear_module_is_refused(method, name, kind):
    with pytest.raises(TypeError, match=rf"{method.__name__} goes in front of Linear; '.*{name}' is a {kind}: leave it"):
        method(targets=("up", name)).attach(make())


@pytest.mark.parametrize("settings", [{"outputs": ("norm1",)}, {"inputs": ("token",)}, {"outputs": ("k.weight",)}])
def test_ia3_refuses_them_too(settings):
    with pytest.raises(TypeError, match=r"IA3 goes in front of Linear; '.*' is a (LayerNorm|Embedding|Parameter)"):
        IA3(**settings).attach(make())


class Halved(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 2


def hooked():
    layer = nn.Linear(4, 3)
    layer.register_forward_hook(lambda module, args, out: out + 1)
    return layer


@pytest.mark.parametrize("make_layer", [lambda: Halved(4, 3), hooked, lambda: weight_norm(nn.Linear(4, 3))])
@pytest.mark.parametrize("method", [*NAMED, IA3])
def test_a_layer_that_makes_something_of_its_own_of_its_weight_is_refused(method, make_layer):
    settings = {"outputs": ("layer",), "inputs": ()} if method is IA3 else {"targets": ("layer",)}
    settings |= {"rank": 2} if method is PiSSA else {}
    with pytest.raises(TypeError, match=r"'layer', a \w+, makes something of its own .* name the weight itself"):
        method(**settings).attach(one(make_layer()))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("method", NAMED)
def test_numbers_that_cannot_be_trained_are_refused(method, dtype):
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(torch.ones(3, 4).to(dtype), requires_grad=False)
    with pytest.raises(TypeError, match=rf"'layer' holds {dtype}, in which {method.__name__} cannot train"):
        method(targets=("layer",)).attach(one(layer))


@pytest.mark.parametrize("method", [m for m in METHODS.values() if "length" in m.__dataclass_fields__])
def test_what_stands_in_front_needs_a_model_whose_sequences_begin_with_a_cache(method):
    with pytest.raises(TypeError, match=rf"{method.__name__} stands before the tokens .* Sequential lacks them"):
        method().attach(one(nn.Linear(3, 3)))


@pytest.mark.parametrize("method", [m for m in METHODS.values() if "size" in m.__dataclass_fields__])
def test_adapters_need_transformer_blocks(method):
    with pytest.raises(ValueError, match=r"there are: layer \(Linear\)"):
        method().attach(one(nn.Linear(3, 3)))
    net = one(nn.ModuleDict({"attn": nn.Linear(3, 3), "mlp": nn.Linear(3, 3)}))
    with pytest.raises(TypeError, match=r"'layer\.(attn|mlp)' is in a ModuleDict"):
        method().attach(net)


def test_a_method_that_does_not_fit_leaves_no_trace():
    model, tokens = make(), rows()[1]
    model.requires_grad_(True)
    logits, modules = model(tokens), list(model.modules())
    for method in (LoRA(targets=("q", "norm1")), PiSSA(rank=13, targets=("q", "up")), VeRA(layers=(9,))):
        with pytest.raises((TypeError, ValueError)):
            method.attach(model)
    assert torch.equal(model(tokens), logits)
    assert list(model.modules()) == modules
    assert all(p.requires_grad for p in model.parameters())
    assert not attachments(model)
